"""Serves proved ResNet classifiers and captioners over gRPC. Start reading at lifecycle.py."""

from resonnx_proto import __version__

__all__ = ["__version__"]
