"""resonnx.v1.Vision: pictures in, labels and captions out."""
