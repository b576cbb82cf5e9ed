"""Checkpoints and foreign weights as ONNX models and engines, proven; nothing else of ours imports it."""
