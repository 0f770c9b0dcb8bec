"""ONNX Runtime, pictures, manifests and golden examples; the exporter uses it too. No gRPC, asyncio or torch."""

import os

# Before ONNX Runtime is imported: its telemetry is decided when the library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
