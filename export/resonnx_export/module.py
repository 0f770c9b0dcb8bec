"""Exports a classifier in memory, of any class: `export_module(model, example, labels, target)`."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from resonnx_proto.v1 import manifest_pb2 as pb
from torch import Tensor, nn

from resonnx_export.classifier import ClassifierSettings, export_recognised
from resonnx_export.errors import BadInput
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.options import Target
from resonnx_export.pictures.recipe import InputChanges, Size
from resonnx_export.pictures.recipes import RecipeChoice
from resonnx_export.progress import Progress, silent
from resonnx_export.publish.package import Exported


class _Module(ClassifierNetwork):
    """A module that maps normalised pictures to logits, split into body and head."""

    def __init__(self, body: nn.Module, head: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.body, self.fc = body, head
        features = body(example)
        self.in_channels, self.feature_size = example.shape[1], features.shape[1]
        self.num_classes = head(features).shape[1]

    def forward_features(self, x: Tensor) -> Tensor:
        return self.body(x)  # type: ignore[no-any-return]


def export_module(
    module: nn.Module,
    example: Tensor,
    labels: Sequence[str],
    target: Target,
    settings: ClassifierSettings | None = None,
    progress: Progress = silent,
) -> Exported:
    """Export a classifier in memory to a new version in the model repository; the module is not changed.

    Args:
        module: Maps normalised float pictures [N,C,H,W] to logits [N,K].
        example: Two or more such pictures.
        labels: K of them, in order.
        target: Where to write.
        settings: Input recipe and more; by default torchvision's first recipe at the example's size.
        progress: Called as each stage begins.

    Raises:
        BadInput: The module returns no logits or cannot be traced, or the settings are wrong; nothing was written.
        ParityFailed: The export differs from the module; nothing was written.
    """
    if example.ndim != 4 or example.shape[0] < 2:
        raise BadInput(f"the example is {list(example.shape)}; two or more pictures [N,C,H,W] are needed")
    network = _split(copy.deepcopy(module).cpu().float().eval().requires_grad_(False), example.cpu().float())
    recognised = RecognisedCheckpoint(
        "module", type(module).__name__, network, _dtypes(module), reference=pb.REFERENCE_USER_CODE
    )
    if settings is None:
        settings = ClassifierSettings(RecipeChoice(changes=InputChanges(size=Size(*example.shape[2:]))), tuple(labels))
    try:
        return export_recognised(recognised, (), replace(settings, labels=tuple(labels)), target, progress)
    except torch.onnx.OnnxExporterError as error:
        raise BadInput(f"{type(module).__name__} cannot be traced: {str(error).strip().splitlines()[0]}") from error


@torch.no_grad()
def _split(module: nn.Module, example: Tensor) -> _Module:
    """Split a module into body and head, its last linear layer, if nothing follows that; otherwise without a head."""
    logits = module(example)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(example):
        raise BadInput(f"the module does not return one row of logits [N,K] a picture, but {_kind(logits)}")
    linear = [
        name
        for name, layer in module.named_modules()
        if name and isinstance(layer, nn.Linear) and layer.out_features == logits.shape[1]
    ]
    if linear:
        body = copy.deepcopy(module)
        head = body.get_submodule(linear[-1])
        parent, _, name = linear[-1].rpartition(".")
        setattr(body.get_submodule(parent), name, nn.Identity())
        features = body(example)
        if features.ndim == 2 and torch.equal(head(features), logits):
            return _Module(body, head, example)
    return _Module(module, nn.Identity(), example)


def _kind(value: object) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _dtypes(module: nn.Module) -> tuple[str, ...]:
    return tuple(sorted({str(value.dtype).removeprefix("torch.") for value in module.parameters()}))
