"""Exports trained PyTorch ResNet classifiers and ResNet+LSTM captioners to ONNX, and proves the copies equal.

Read `classifier.py` first: checkpoint -> network -> trace -> parity -> precision -> goldens -> package.
"""

from resonnx_proto import __version__

__all__ = ["__version__"]
