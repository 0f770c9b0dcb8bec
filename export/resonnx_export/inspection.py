"""Describes a checkpoint file: the network that would be exported and the next command, or what the file holds."""

import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from resonnx_export.errors import BadInput
from resonnx_export.layouts.captioners import recognise_captioner
from resonnx_export.layouts.captioners.summary import encoder_reason, summary
from resonnx_export.layouts.families import OtherNetwork
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.layouts.video.summary import summary as video_summary
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.pictures.recipes import RecipeChoice
from resonnx_export.sources.pickled_captioner import follow_pickled
from resonnx_export.sources.recorded import Recorded
from resonnx_export.sources.source import read_source, recognise_source
from resonnx_export.vocabulary import Vocabulary
from resonnx_export.wording import names


def inspect_file(path: Path, weights: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield titles and values; `weights` as read_source's. Raises BadInput if the file is not read or recognised."""
    try:
        source = read_source(path, weights)
        recognised = recognise_source(source)
    except OtherNetwork:
        raise
    except BadInput:
        if not (lines := list(video_summary(path)) or list(summary(path, partial(_captioner, path)))):
            raise
        yield from lines
        return
    if source.recorded.labels is None and (reason := encoder_reason(path, source.state_dict)) is not None:
        yield from _encoder(path, recognised, reason)
    else:
        yield from _classifier(recognised, source.recorded)
        yield "next", _command(path, weights, recognised, source.recorded)
    for file in source.files:
        yield "sha256", file.sha256


def _captioner(path: Path, vocabulary: Vocabulary) -> RecognisedCheckpoint:
    source, _ = follow_pickled({}, lambda assume: recognise_captioner([path], vocabulary, assume=assume))
    return source.recognised


def _encoder(path: Path, recognised: RecognisedCheckpoint, reason: str) -> Iterator[tuple[str, str]]:
    network, file = recognised.network, shlex.quote(str(path))
    assert isinstance(network, ClassifierNetwork)
    yield "layout", f"the encoder of a captioner, it seems ({reason}); its decoder is in another file"
    yield "architecture", recognised.architecture
    yield "outputs", f"{network.num_classes} features of a picture, which the decoder reads"
    yield "parameters", f"{recognised.parameters:,}"
    yield "dtype", ", ".join(recognised.dtypes)
    for note in recognised.notes:
        yield "note", note
    yield "next", f"resonnx-export captioner {file} DECODER --vocab VOCABULARY --repository models --name NAME"
    classes = f"a classifier of {network.num_classes} classes"
    yield "or", f"if it is {classes}: resonnx-export classifier {file} --labels LABELS --repository models --name NAME"


def _classifier(recognised: RecognisedCheckpoint, recorded: Recorded) -> Iterator[tuple[str, str]]:
    network = recognised.network
    assert isinstance(network, ClassifierNetwork)
    yield "layout", recognised.layout
    yield "architecture", recognised.found or recognised.architecture
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


def _command(path: Path, weights: str | None, recognised: RecognisedCheckpoint, recorded: Recorded) -> str:
    """Return the command to type next."""
    network = recognised.network
    assert isinstance(network, ClassifierNetwork)
    if not network.num_classes:
        return "train a linear layer on this trunk, and export both; or resonnx-export captioner, with a decoder"
    file = shlex.quote(str(path))
    if network.in_channels not in (1, 3):
        return f"none: the network takes pictures of {network.in_channels} channels; RGB and grey are exported"
    options = {
        f"--weights {shlex.quote(weights or '')}": weights is not None,
        "--labels LABELS": recorded.labels is None,
        # Softmax of one class is always 1.
        "--activation sigmoid": network.num_classes == 1,
        # Every recipe's are those of three channels.
        "--mean MEAN --std STD": network.in_channels == 1,
    }
    given = "".join(f"{option} " for option, needed in options.items() if needed)
    return f"resonnx-export classifier {file} {given}--repository models --name NAME"
