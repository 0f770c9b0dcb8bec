"""Exports a classifier that is an ONNX file: preprocessing before its graph, and a proof against the file itself."""

from dataclasses import replace
from pathlib import Path

import torch

from resonnx_export.classifier import ClassifierSettings, export_recognised
from resonnx_export.errors import BadInput
from resonnx_export.onnx_files.network import OnnxNetwork
from resonnx_export.onnx_files.recognised import LAYOUT, grafted, open_onnx, recognise_onnx
from resonnx_export.options import Activation, Target
from resonnx_export.pictures.recipe import Size
from resonnx_export.pictures.recipes import RecipeChoice
from resonnx_export.progress import Progress
from resonnx_export.publish import package
from resonnx_export.publish.package import Exported

_ROWS = 2


def export_onnx(
    file: Path, settings: ClassifierSettings, target: Target, progress: Progress, output: str | None = None
) -> Exported:
    """Export an ONNX file to a new version in the model repository.

    Args:
        file: The file; external data is beside it.
        settings: As for a checkpoint; fp32 only.
        target: Where to write.
        progress: Called as each stage begins.
        output: Name of the output with the classes; None to look for it.

    Raises:
        BadInput: The file, the settings or the target; nothing was written.
        ParityFailed: The export differs from the file in ONNX Runtime; nothing was written.
    """
    package.plan(target)
    progress(f"reading {file.name}")
    choice = settings.input
    recipe = choice.for_layout(LAYOUT).recipe if isinstance(choice, RecipeChoice) else choice
    size = Size(recipe.height, recipe.width)
    network = open_onnx(file, size, len(settings.labels) if settings.labels else None, output)
    fixed = network.form.size
    if fixed is not None and fixed != size:
        if not isinstance(choice, RecipeChoice) or choice.changes.size is not None:
            raise BadInput(f"the graph takes pictures of {fixed}, not of {size}: leave --size out")
        settings = replace(settings, input=replace(choice, changes=replace(choice.changes, size=fixed)))
    settings = replace(settings, activation=_activation(network, settings.activation, fixed or size))
    recognised = recognise_onnx(network)
    return export_recognised(recognised, network.file.files, settings, target, progress, trace=grafted)


def _activation(network: OnnxNetwork, asked: Activation | None, size: Size) -> Activation:
    own = network.form.activation
    if own is not None:
        if asked not in (None, own):
            raise BadInput(f"--activation {asked}: the file ends with its own {own}; leave --activation out")
        return own
    noise = torch.randn(_ROWS, network.form.channels, *size, generator=torch.Generator().manual_seed(0))
    logits = network(noise)
    sums = logits.sum(dim=1)
    is_probability = bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), rtol=0, atol=1e-4)
    if is_probability and asked in (None, "softmax"):
        raise BadInput(
            "the graph gives probabilities (each row is positive with the sum 1), and softmax would change them: give "
            "--activation none"
        )
    return asked or "softmax"
