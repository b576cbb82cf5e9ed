"""A model on its way to a file: source, request, half precision, ONNX on disk; knows no builder."""
