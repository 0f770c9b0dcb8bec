"""torchvision's own classes, as an oracle for tests.

Its wheel is built for torch with CUDA: beside torch for the CPU its compiled operators do not load, and the import
fails on describing two of them. They are then declared here, and never called.
"""

import sys

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    for _half in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[_half]
    _OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchvision.models import get_model

__all__ = ["get_model"]
