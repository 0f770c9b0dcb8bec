"""Loads video classifiers."""
