"""Clips: which frames of a video a model reads, and reading them from a file, within limits."""
