"""Other people's ONNX models: surgery on the graph, and a trial in a bounded process; knows none of our nets."""
