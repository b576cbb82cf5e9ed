"""State dicts of torchvision and timm as weights of our nets; knows nothing of ONNX."""
