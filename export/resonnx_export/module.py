"""Exports a classifier that is in memory, of whatever class: `export_module(model, example, labels, target)`."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from resonnx_export.classifier import ClassifierSettings, export_recognised
from resonnx_export.errors import BadInput
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.networks import ClassifierNetwork
from resonnx_export.pictures.recipe import InputChanges
from resonnx_export.pictures.recipes import RecipeChoice
from resonnx_export.progress import Progress
from resonnx_export.publish.package import Exported, Target


class _Module(ClassifierNetwork):
    """Any module that maps normalised pictures to logits; its last linear layer is the head, where it has one."""

    def __init__(self, body: nn.Module, head: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.body, self.fc = body, head
        features = body(example)
        self._sizes: tuple[int, int, int] = example.shape[1], head(features).shape[1], features.shape[1]

    @property
    def in_channels(self) -> int:
        """As the example's."""
        return self._sizes[0]

    @property
    def num_classes(self) -> int:
        """Columns of what the module answers."""
        return self._sizes[1]

    @property
    def feature_size(self) -> int:
        """Inputs of the last linear layer; num_classes where there is none."""
        return self._sizes[2]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return what the head is given: [N,D]."""
        return self.body(x)  # type: ignore[no-any-return]


def export_module(
    module: nn.Module,
    example: Tensor,
    labels: Sequence[str],
    target: Target,
    settings: ClassifierSettings | None = None,
    tell: Progress = lambda stage: None,
) -> Exported:
    """Export a classifier in memory to a new version in the model repository; the module is left as it is.

    Args:
        module: Maps normalised float pictures [N,C,H,W] to logits [N,K].
        example: Such pictures, two or more, square; only their size matters if `settings` are given.
        labels: One for each class, in order.
        target: Where to.
        settings: Input recipe and more; torchvision's first recipe for pictures of the example's size if not given.
        tell: Hears what is being done.

    Raises:
        BadInput: The module does not answer as it must or cannot be traced, or the settings; nothing was written.
        ParityFailed: The export is not equal to the module; nothing was written.
    """
    if example.ndim != 4 or example.shape[0] < 2 or example.shape[2] != example.shape[3]:
        raise BadInput(f"the example is {list(example.shape)}; two or more square pictures [N,C,S,S] are needed")
    network = _split(copy.deepcopy(module).cpu().float().eval().requires_grad_(False), example.cpu().float())
    recognised = RecognisedCheckpoint("module", type(module).__name__, network, _dtypes(module))
    if settings is None:
        settings = ClassifierSettings(RecipeChoice(changes=InputChanges(size=example.shape[2])), tuple(labels))
    try:
        return export_recognised(recognised, (), replace(settings, labels=tuple(labels)), target, tell)
    except torch.onnx.OnnxExporterError as error:
        raise BadInput(f"{type(module).__name__} cannot be traced: {str(error).strip().splitlines()[0]}") from error


@torch.no_grad()
def _split(module: nn.Module, example: Tensor) -> _Module:
    """Take the head off a module, if its answer is that of its last linear layer and nothing after."""
    logits = module(example)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(example):
        raise BadInput(f"the module does not answer one row of logits [N,K] a picture, but {_kind(logits)}")
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
