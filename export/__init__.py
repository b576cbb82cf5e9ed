"""Checkpoints and foreign weights as ONNX models and engines, proven; nothing else of ours imports it."""

from infer.errors import need

need("build", "google.protobuf", "onnx", "tabulate", "tqdm")
need("onnx", "onnxruntime")
