"""Serves proved ResNet classifiers and captioners over gRPC. Start reading at lifecycle.py."""

__version__ = "0.1.0"
