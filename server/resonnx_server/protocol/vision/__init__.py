"""resonnx.v1.Vision: results to messages."""
