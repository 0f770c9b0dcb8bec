"""Recognises whose code a checkpoint comes from, by its keys and shapes."""
