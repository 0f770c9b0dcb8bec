"""Recognises a captioner's files, and builds the network with its decoding rule and picture recipe.

A layout is a function that turns the files' parts into a Draft, or returns None if they are not of this layout. A new
layout is one more entry of _LAYOUTS.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_export.checkpoints.files import SourceFile
from resonnx_export.checkpoints.pickles import Stub
from resonnx_export.errors import BadInput
from resonnx_export.layouts.captioners import attend, picture_first, self_critical
from resonnx_export.layouts.captioners.draft import Draft, Request
from resonnx_export.layouts.captioners.encoder import find_encoder
from resonnx_export.layouts.captioners.parts import Part, read_parts
from resonnx_export.layouts.captioners.recurrent import find_cells
from resonnx_export.layouts.recognised import RecognisedCheckpoint, loaded
from resonnx_export.networks.detect import CheckpointMismatch, check_fits
from resonnx_export.special_tokens import SpecialTokens
from resonnx_export.vocabulary import Vocabulary

__all__ = ["CaptionSource", "recognise_captioner"]

_LAYOUTS: Final[tuple[Callable[[Request], Draft | None], ...]] = (
    attend.own,
    self_critical.self_critical,
    attend.attending,
    picture_first.tutorial,
)


@dataclass(frozen=True)
class CaptionSource:
    """A recognised captioner, with its source's decoding rule (without the attention grid) and picture recipe.

    `rebuild` returns it with other values of its assumptions by name, or raises BadInput; None for the user's code.
    `modules` are those that were pickled whole.
    """

    recognised: RecognisedCheckpoint
    spec: pb.CaptionerSpec
    input: pb.ImageInput
    files: tuple[SourceFile, ...]
    rebuild: "Callable[[Mapping[str, str]], CaptionSource] | None" = None
    modules: tuple[Stub, ...] = ()


def recognise_captioner(
    files: Sequence[Path],
    vocabulary: Vocabulary | None = None,
    *,
    caffe_resnet: bool | None = None,
    residual: bool = False,
    tokens: SpecialTokens | None = None,
    assume: Mapping[str, str] | None = None,
) -> CaptionSource:
    """Read a captioner's files, in any order.

    Args:
        files: One or more, depending on the layout.
        vocabulary: The word of each token id; None for the one in the files.
        caffe_resnet: Whether the ResNet is Caffe's variant, which has the same keys; required if the CNN is a separate
            file.
        residual: Whether the decoder's stacked cells have skip connections, from the second on; not for nn.LSTM, whose
            layers have none.
        tokens: The words that start, end and pad captions; by default they are found by their names.
        assume: Values of properties that the files do not record, by their names in assumed.AXES.

    Raises:
        BadInput: A file cannot be read, no layout is recognised, or keys, shapes or options do not fit.
    """
    contents = read_parts(files, find_words=vocabulary is None)
    parts = contents.parts
    words = vocabulary or contents.vocabulary
    if words is None:
        raise BadInput(
            "the checkpoint has no vocabulary: give --vocab FILE, the one from the training (vocab.pkl, word_map.json "
            "or one word a line)"
        )
    request = Request(parts, words, caffe_resnet, residual, tokens or SpecialTokens(), assume or {})
    try:
        draft = _draft(request)
        if draft is None:
            if all("layer1.0.conv1.weight" in part.tensors for part in parts):
                raise BadInput("the checkpoint is a classifier (a ResNet alone), not a captioner")
            raise BadInput(f"no known captioner: {'; '.join(map(str, parts))}; {_way(parts)}")
        if unused := [part for part in parts if not any(part is used for used in draft.parts)]:
            raise BadInput(f"layout {draft.layout} does not use a part of the files: {unused[0]}")
        size, count = draft.network.vocabulary_size, len(draft.spec.vocabulary)
        if size != count:
            raise BadInput(
                f"the vocabulary has {count} words, the network {size}; only the file from the training fits"
            )
        check_fits(draft.network, draft.state_dict)
        recognised = loaded(draft.layout, draft.network.to_empty(device="cpu"), draft.state_dict)
    except CheckpointMismatch as error:
        raise BadInput(f"{', '.join(file.name for file in files)}: {error}") from None
    if caffe_resnet and draft.layout != self_critical.NAME:
        raise BadInput(f"layout {draft.layout} has torchvision's ResNet; --caffe-resnet is for {self_critical.NAME}")
    if residual and "residual" not in {each.name for each in draft.assumptions}:
        raise BadInput(
            f"layout {draft.layout}: --residual is for decoders with a list of two or more recurrent modules, and this "
            "has none; the layers of one nn.LSTM, GRU or RNN have no skip connections"
        )
    notes = draft.notes
    if vocabulary is None:
        notes += (f"the vocabulary is the checkpoint's, {len(words.words)} words",)
    recognised = replace(recognised, notes=notes, assumptions=draft.assumptions)
    modules = tuple(part.module for part in parts if part.module is not None)
    return CaptionSource(recognised, draft.spec, draft.input, contents.sources, modules=modules)


def _way(parts: Sequence[Part]) -> str:
    """Name the missing file, or the command that exports an unknown captioner."""
    cells = any(find_cells(part.tensors) for part in parts)
    if cells != any(find_encoder(part.tensors) for part in parts):
        found, other = (
            ("recurrent cells and no ResNet", "encoder") if cells else ("a ResNet and no recurrent cells", "decoder")
        )
        missing = f"{found}: give the {other}'s file too, resonnx-export captioner ENCODER DECODER; or "
    else:
        missing = ""
    return missing + (
        "export it with an adapter (docs/adapters.md): resonnx-export module your_file.py:build --checkpoint FILE "
        "--vocab VOCABULARY --repository models --name NAME"
    )


def _draft(request: Request) -> Draft | None:
    """Try the layouts in turn. Networks are on the meta device until their shapes, which may be of any size, fit."""
    try:
        with torch.device("meta"):
            return next((draft for layout in _LAYOUTS if (draft := layout(request)) is not None), None)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, CheckpointMismatch):
            raise
        raise CheckpointMismatch("the shapes do not belong together") from None
