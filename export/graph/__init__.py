"""The view graph, written in ONNX; knows nothing of files, precisions or builders."""
