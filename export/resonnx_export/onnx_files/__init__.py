"""Classifiers that are ONNX files: reading, reference answers of ONNX Runtime, preprocessing before the graph."""
