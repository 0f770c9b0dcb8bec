"""The Open Inference Protocol with Triton's extensions, in a private descriptor pool."""
