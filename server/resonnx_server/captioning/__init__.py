"""Captions of many callers decoded together: encoder batches, and decoder steps over shared slots."""
