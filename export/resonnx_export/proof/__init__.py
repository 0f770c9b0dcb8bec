"""Compares ONNX Runtime's outputs with PyTorch's: parity, golden examples, providers, speed."""
