"""Exports PyTorch ResNet classifiers and ResNet+LSTM captioners to ONNX, and checks that the outputs are PyTorch's.

Read `classifier.py` first: checkpoint -> network -> trace -> parity -> precision -> golden examples -> package.
"""

from resonnx_proto import __version__

from resonnx_export.answers.record import record

__all__ = ["__version__", "record"]
