"""Memory, streams, events and graphs of one GPU, through PyCUDA or cuda-python; knows nothing of engines."""
