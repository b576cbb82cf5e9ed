"""TensorRT plans as engines: sidecar, library, buffers, calls; builds nothing and knows no ONNX."""
