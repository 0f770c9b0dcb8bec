"""Encodes frames and classifies clips of them, for one video classifier."""
