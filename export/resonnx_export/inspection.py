"""Describes a checkpoint file: the network that would be exported and the next command, or what the file holds."""

from collections.abc import Iterator
from pathlib import Path

from resonnx_export.errors import BadInput
from resonnx_export.layouts.captioners.summary import summary
from resonnx_export.layouts.families import OtherNetwork
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.pictures.recipes import RecipeChoice
from resonnx_export.sources.recorded import Recorded
from resonnx_export.sources.source import read_source, recognise_source
from resonnx_export.wording import names


def inspect_file(path: Path, weights: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield titles and values; `weights` as read_source's. Raises BadInput if the file is not read or recognised."""
    try:
        source = read_source(path, weights)
        recognised = recognise_source(source)
    except OtherNetwork:
        raise
    except BadInput:
        if not (lines := list(summary(path))):
            raise
        yield from lines
        return
    yield from _classifier(recognised, source.recorded)
    yield "next", _command(path, recognised, source.recorded)
    for file in source.files:
        yield "sha256", file.sha256


def _classifier(recognised: RecognisedCheckpoint, recorded: Recorded) -> Iterator[tuple[str, str]]:
    network = recognised.network
    assert isinstance(network, ClassifierNetwork)
    yield "layout", recognised.layout
    yield "architecture", recognised.architecture
    yield "outputs", f"{network.num_classes} classes" if network.num_classes else "none (a trunk)"
    if recorded.labels is not None:
        yield "labels", f"{names('names', list(recorded.labels.names))} ({recorded.labels_from})"
    yield "parameters", f"{recognised.parameters:,}"
    yield "dtype", ", ".join(recognised.dtypes)
    chosen = RecipeChoice(told=recorded.pictures).for_layout(recognised.layout)
    for note in (*recognised.notes, chosen.note):
        yield "note", note
    for assumption in recognised.assumptions + chosen.assumptions:
        yield "assumption", str(assumption)


def _command(path: Path, recognised: RecognisedCheckpoint, recorded: Recorded) -> str:
    """Return the command to type next."""
    network = recognised.network
    if isinstance(network, ClassifierNetwork) and not network.num_classes:
        return "train a linear layer on this trunk, and export both; or resonnx-export captioner, with a decoder"
    labels = "" if recorded.labels is not None else "--labels LABELS "
    # Softmax of one class is always 1.
    activation = "--activation sigmoid " if isinstance(network, ClassifierNetwork) and network.num_classes == 1 else ""
    return f"resonnx-export classifier {path} {labels}{activation}--repository models --name NAME"
