"""Limits of what the constants of an ONNX file grow to."""
