"""Describes a file of a captioner: its network, or the half that it holds, and the next command."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from resonnx_export.errors import BadInput
from resonnx_export.layouts.captioners.encoder import find_encoder, other_encoder
from resonnx_export.layouts.captioners.parts import Contents, read_parts
from resonnx_export.layouts.captioners.recurrent import find_cells
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.vocabulary import Vocabulary

_NEXT = "--repository models --name NAME"


def summary(path: Path, recognise: Callable[[Vocabulary], RecognisedCheckpoint]) -> Iterator[tuple[str, str]]:
    """Yield titles and values; nothing for other files.

    Args:
        path: The file.
        recognise: Recognises it with a vocabulary, if both halves are in it.

    Raises:
        BadInput: The captioner is not exported.
    """
    try:
        contents = read_parts([path], find_words=True)
    except BadInput:
        return
    tensors = {key: value for part in contents.parts for key, value in part.tensors.items()}
    if find_cells(tensors) is None:
        return
    words = max((value.shape[0] for key, value in tensors.items() if _is_embedding(key, value)), default=0)
    if any(find_encoder(part.tensors) for part in contents.parts) or other_encoder([tensors]):
        yield from _whole(path, contents, words, recognise)
    elif not words and all(value.dim() < 4 for value in tensors.values()):
        yield "layout", "the second half of a video classifier (recurrent cells without words), or one over features"
        file = shlex.quote(str(path))
        yield "next", f"resonnx-export video-classifier {file} ENCODER --labels LABELS {_NEXT}, or without ENCODER"
    else:
        yield "layout", "a captioner without a ResNet, or the decoder of one"
        yield "outputs", f"captions of {words} words"
        for part in contents.parts:
            yield "holds", str(part)
        yield "next", f"resonnx-export captioner {shlex.quote(str(path))} ENCODER --vocab VOCABULARY {_NEXT}"
    yield "sha256", contents.sources[0].sha256


def encoder_reason(path: Path, tensors: Mapping[str, Tensor]) -> str | None:
    """Return why a ResNet with a linear layer seems to be a captioner's encoder, not a classifier; None if it does not.

    Both have the same tensors, so only names tell.
    """
    encoder = find_encoder(tensors)
    rest = {} if encoder is None else encoder.rest
    matrices = [key for key, value in rest.items() if value.dim() == 2]
    if encoder is None or not matrices:
        return None
    name = matrices[-1].removesuffix(".weight").rpartition(".")[2]
    if any(key.endswith("running_mean") for key in [*rest][[*rest].index(matrices[-1]) :]):
        return "BatchNorm follows its last linear layer"
    if "embed" in name:
        return f"its last layer is called {name}"
    if "encoder" in path.name.lower():
        return "its file is called so"
    # As the commonest tutorial has it.
    cut = encoder.head is None and any(key.startswith("resnet.") for key in encoder.names)
    return "its layers are called resnet and linear" if cut and matrices == ["linear.weight"] else None


def _is_embedding(key: str, value: Tensor) -> bool:
    return "embed" in key and value.dim() == 2


def _whole(
    path: Path, contents: Contents, words: int, recognise: Callable[[Vocabulary], RecognisedCheckpoint]
) -> Iterator[tuple[str, str]]:
    """Describe the network of a file with both halves, with any words if it has none."""
    some = ("<pad>", "<start>", "<end>", *map(str, range(3, words)))
    recognised = recognise(contents.vocabulary or Vocabulary(some))
    yield "layout", recognised.layout
    yield "architecture", f"{recognised.architecture} and recurrent cells"
    yield "outputs", f"captions of {recognised.network.vocabulary_size} words"
    yield "parameters", f"{recognised.parameters:,}"
    yield "dtype", ", ".join(recognised.dtypes)
    for note in recognised.notes:
        yield "note", note
    for assumption in recognised.assumptions:
        yield "assumption", str(assumption)
    vocab = "" if contents.vocabulary else "--vocab VOCABULARY "
    yield "next", f"resonnx-export captioner {shlex.quote(str(path))} {vocab}{_NEXT}"
