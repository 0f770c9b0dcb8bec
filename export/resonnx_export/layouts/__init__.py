"""Recognises the source of a checkpoint by its keys and shapes."""
