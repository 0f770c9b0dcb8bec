"""ONNX Runtime, pictures, manifests, golden examples: shared with the exporter, so what is proved is what serves.

No gRPC, no asyncio, no torch.
"""
