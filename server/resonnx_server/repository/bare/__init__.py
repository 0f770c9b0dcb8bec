"""Loads ONNX files without a manifest."""
