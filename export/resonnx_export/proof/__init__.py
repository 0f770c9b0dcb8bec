"""Compares ONNX Runtime's outputs with PyTorch's."""
