"""ONNX Runtime, pictures, manifests, golden examples: shared with the exporter, so what is proved is what serves.

No gRPC, no asyncio, no torch.
"""

import os

# Before anything imports ONNX Runtime: the wheel's telemetry is decided when the library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
