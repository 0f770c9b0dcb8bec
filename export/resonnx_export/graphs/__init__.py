"""Networks traced to ONNX graphs."""
