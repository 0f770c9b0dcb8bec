"""Exports a classifier of any class, in memory or made by the user's own code: `resonnx-export module TARGET`."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from resonnx_proto.v1 import manifest_pb2 as pb
from torch import Tensor, nn

from resonnx_export.classifier import ClassifierSettings, export_recognised, with_recorded
from resonnx_export.errors import BadInput
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.options import Activation, Target
from resonnx_export.pictures.recipe import InputChanges, Size
from resonnx_export.pictures.recipes import RecipeChoice
from resonnx_export.progress import Progress, silent
from resonnx_export.publish import package
from resonnx_export.publish.package import Exported
from resonnx_export.user_code.network import as_network, fitting_example, prepared
from resonnx_export.user_code.opened import Code, Opened, open_code


def export_code(code: Code, settings: ClassifierSettings, target: Target, progress: Progress) -> Exported:
    """Run the user's code, load the checkpoint into it, and export the module to a new version in the repository.

    Args:
        code: The code, its arguments and the checkpoint.
        settings: What it leaves open is taken from the library's configuration.
        target: Where to write.
        progress: Called as each stage begins.

    Raises:
        BadInput: The code raises, the checkpoint does not fit, or the settings are wrong; nothing was written.
        ParityFailed: The export differs from the module; nothing was written.
    """
    package.plan(target)
    progress(f"running {code.target}")
    opened = open_code(code, len(settings.labels) if settings.labels else None)
    settings = with_recorded(settings, opened.recorded)
    choice = settings.input
    if isinstance(choice, RecipeChoice):
        if opened.size is not None and choice.changes.size is None:
            choice = replace(choice, changes=replace(choice.changes, size=Size(*opened.size)))
            settings = replace(settings, input=choice)
        recipe = choice.for_layout(opened.layout).recipe
    else:
        recipe = choice
    classes = len(settings.labels) if settings.labels else None
    recognised = recognise_module(opened, recipe, classes, settings.activation or "softmax")
    return _export(recognised, opened, settings, target, progress)


def recognise_module(
    opened: Opened, recipe: pb.ImageInput, classes: int | None, activation: Activation
) -> RecognisedCheckpoint:
    """Return a user's module as a network of the exporter.

    Raises:
        BadInput: The module raises on pictures of the recipe's size, or returns no logits, or probabilities that the
            activation would turn into others.
    """
    example = fitting_example(opened.module, recipe.height, recipe.width)
    network = as_network(opened.module, example, classes, activation)
    return RecognisedCheckpoint(
        opened.layout,
        opened.architecture,
        network,
        opened.dtypes,
        notes=opened.notes,
        reference=pb.REFERENCE_USER_CODE,
    )


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
        module: Maps normalised float pictures [N,C,H,W] to logits [N,K], or an object or mapping with `logits`.
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
    if settings is None:
        settings = ClassifierSettings(RecipeChoice(changes=InputChanges(size=Size(*example.shape[2:]))), tuple(labels))
    dtypes = tuple(sorted({str(value.dtype).removeprefix("torch.") for value in module.parameters()}))
    opened = Opened(prepared(copy.deepcopy(module)), "module", type(module).__name__, dtypes)
    network = as_network(opened.module, example.cpu().float(), len(labels), settings.activation or "softmax")
    recognised = RecognisedCheckpoint(
        opened.layout, opened.architecture, network, dtypes, reference=pb.REFERENCE_USER_CODE
    )
    return _export(recognised, opened, replace(settings, labels=tuple(labels)), target, progress)


def _export(
    recognised: RecognisedCheckpoint, opened: Opened, settings: ClassifierSettings, target: Target, progress: Progress
) -> Exported:
    try:
        return export_recognised(recognised, opened.files, settings, target, progress)
    except torch.onnx.OnnxExporterError as error:
        reason = error.__cause__ or error
        lines = [line.strip() for line in str(reason).splitlines() if line.strip()] or [type(reason).__name__]
        raise BadInput(f"{opened.architecture} cannot be traced: {lines[0]}") from error
