"""Exports of video classifiers, from checkpoints."""
