"""resonnx's own task API and manifest, version 1."""
