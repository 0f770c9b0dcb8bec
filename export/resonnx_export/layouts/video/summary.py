"""Describes a file of a video classifier: its network, the options that it needs, and the next command."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from resonnx_export.errors import BadInput
from resonnx_export.layouts.video import recognise_video
from resonnx_export.networks.video import VideoNetwork


def summary(path: Path) -> Iterator[tuple[str, str]]:
    """Yield titles and values; nothing for files that hold no whole video classifier."""
    try:
        source = recognise_video([path], decided=True)
    except BadInput:
        return
    recognised, network = source.recognised, source.recognised.network
    assert isinstance(network, VideoNetwork)
    yield "layout", recognised.layout
    yield "architecture", recognised.architecture
    reads = "frames" if network.in_channels else f"{network.feature_size} given features a frame"
    yield "outputs", f"{network.num_classes} classes of clips, from {reads}"
    yield "parameters", f"{recognised.parameters:,}"
    yield "dtype", ", ".join(recognised.dtypes)
    for note in recognised.notes:
        yield "note", note
    for assumption in recognised.assumptions:
        yield "assumption", str(assumption)
    file = shlex.quote(str(path))
    encoder = "" if network.in_channels else " (or, if its features are those of a ResNet, with the ResNet's file, too)"
    yield (
        "next",
        f"resonnx-export video-classifier {file} --labels LABELS --repository models --name NAME{encoder}",
    )
    yield "sha256", source.files[0].sha256
