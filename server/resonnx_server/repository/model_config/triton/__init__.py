"""Reads a Triton model configuration."""
