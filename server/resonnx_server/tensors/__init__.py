"""Tensor requests of many callers, batched through one session: classifiers and bare ONNX files."""
