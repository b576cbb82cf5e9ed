"""Other people's ONNX models: surgery on the graph, and its behaviour when it is run; knows none of our nets."""
