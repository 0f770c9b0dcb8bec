"""Turns a captioner's files, of whichever layout, into one network with its decoding rule and its picture recipe.

A layout is a module with one function that takes the files' parts and answers a Draft, or None where they are not its
own. A new layout is one more entry of _LAYOUTS.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_export.checkpoints.files import SourceFile
from resonnx_export.errors import BadInput
from resonnx_export.labels.vocabulary import Vocabulary
from resonnx_export.layouts.captioners import attend, picture_first, self_critical
from resonnx_export.layouts.captioners.draft import Draft, Request
from resonnx_export.layouts.captioners.parts import read_parts
from resonnx_export.layouts.recognised import RecognisedCheckpoint, loaded
from resonnx_export.networks import CheckpointMismatch, check_fits

__all__ = ["CaptionSource", "recognise_captioner"]

_LAYOUTS: Final[tuple[Callable[[Request], Draft | None], ...]] = (
    attend.own,
    attend.show_attend_tell,
    picture_first.tutorial,
    self_critical.self_critical,
)


@dataclass(frozen=True)
class CaptionSource:
    """A captioner as its files have it.

    Attributes:
        recognised: The network with its weights; its layout's name.
        spec: The source's decoding rule, but for the attention grid, which depends on the input's size.
        input: The source's picture recipe.
        files: In the order given.
    """

    recognised: RecognisedCheckpoint
    spec: pb.CaptionerSpec
    input: pb.ImageInput
    files: tuple[SourceFile, ...]


def recognise_captioner(
    files: Sequence[Path], vocabulary: Vocabulary, *, caffe_resnet: bool | None = None, residual: bool = False
) -> CaptionSource:
    """Read a captioner's files, in any order.

    Args:
        files: One or more, as the layout has them.
        vocabulary: The word of each token id.
        caffe_resnet: Whether the ResNet is Caffe's variant, which has the same keys; must be given where the CNN is a
            file of its own.
        residual: Whether each of the decoder's stacked cells, from the second on, adds its input to its output; not
            for nn.LSTM, whose layers cannot.

    Raises:
        BadInput: A file cannot be read, no layout is recognised, or something does not fit; says what.
    """
    parts, sources = read_parts(files)
    request = Request(parts, vocabulary, caffe_resnet, residual)
    try:
        draft = _draft(request)
        if draft is None:
            if all("layer1.0.conv1.weight" in part.tensors for part in parts):
                raise BadInput("the checkpoint is a classifier (a ResNet alone), not a captioner")
            raise BadInput(
                f"no known captioner: {'; '.join(map(str, parts))}; known are resonnx-captioner, sgrvinod, yunjey, "
                "udacity-cvnd and ruotianluo, of which encoder and decoder must both be given"
            )
        if unused := [part for part in parts if not any(part is used for used in draft.parts)]:
            raise BadInput(f"layout {draft.layout} has no use for what else was given: {unused[0]}")
        size, words = draft.network.vocabulary_size, len(draft.spec.vocabulary)
        if size != words:
            raise BadInput(
                f"the vocabulary has {words} words, the network {size}; only the file that the training wrote fits"
            )
        check_fits(draft.network, draft.state_dict)
        recognised = loaded(draft.layout, draft.network.to_empty(device="cpu"), draft.state_dict)
    except CheckpointMismatch as error:
        raise BadInput(f"{', '.join(file.name for file in files)}: {error}") from None
    if caffe_resnet and draft.layout != self_critical.NAME:
        raise BadInput(f"layout {draft.layout} has torchvision's ResNet; --caffe-resnet is for {self_critical.NAME}")
    if residual and not draft.layout.endswith(picture_first.RESIDUAL):
        raise BadInput(
            f"layout {draft.layout}: --residual is for decoders with a list of two or more recurrent modules, and this "
            "has none; the layers of one nn.LSTM, GRU or RNN add nothing to their outputs"
        )
    return CaptionSource(replace(recognised, notes=draft.notes), draft.spec, draft.input, sources)


def _draft(request: Request) -> Draft | None:
    """Ask the layouts in turn. Networks take no memory yet: before their shapes fit, these may be of any size."""
    try:
        with torch.device("meta"):
            return next((draft for layout in _LAYOUTS if (draft := layout(request)) is not None), None)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, CheckpointMismatch):
            raise
        raise CheckpointMismatch("the shapes do not belong together") from None
