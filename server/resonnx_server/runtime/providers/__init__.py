"""ONNX Runtime's distributions and execution providers: which is installed, and their options."""
