"""The use cases that every front calls, and the registry of loaded models."""
