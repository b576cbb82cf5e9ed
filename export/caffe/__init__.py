"""Caffe's prototxt and caffemodel as one of our nets; knows nothing of ONNX."""
