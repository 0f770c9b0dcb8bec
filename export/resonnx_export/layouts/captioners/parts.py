"""Splits captioner files into modules, and finds the vocabulary in them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from resonnx_export.checkpoints.files import SourceFile, read_tree
from resonnx_export.checkpoints.pickles import Stub
from resonnx_export.checkpoints.unpickle import state_dict_of
from resonnx_export.errors import BadInput
from resonnx_export.layouts.names import unwrapped
from resonnx_export.vocabulary import Vocabulary, find_vocabulary

# Keys of a state_dict of both halves: "encoder.resnet.0.weight", "decoderRNN.embed.weight".
_HALF: Final = re.compile(r"((?:encoder|decoder)[^.]*)\.(.+)", re.IGNORECASE)
_MAX_DEPTH: Final = 3


@dataclass(frozen=True)
class Part:
    """One module's tensors by key, and the module where it was pickled whole."""

    tensors: Mapping[str, Tensor]
    module: Stub | None = None

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The pickled module's plain attributes."""
        return {} if self.module is None else self.module.attributes

    def __str__(self) -> str:
        return f"{len(self.tensors)} keys, the first {', '.join(list(self.tensors)[:3])}"


@dataclass(frozen=True)
class Contents:
    """The parts in a captioner's files, the files' identities, and the vocabulary if a file has it."""

    parts: Sequence[Part]
    sources: tuple[SourceFile, ...]
    vocabulary: Vocabulary | None


def read_parts(files: Sequence[Path], *, find_words: bool = False) -> Contents:
    """Read a captioner's files; `find_words` looks for the vocabulary in them.

    Raises:
        BadInput: A file has no tensors by name, or its vocabulary is no valid one.
    """
    parts: list[Part] = []
    sources: list[SourceFile] = []
    vocabulary = None
    for file in files:
        tree, source = read_tree(file)
        if not (found := list(_parts(tree, _MAX_DEPTH, set()))):
            raise BadInput(f"{file} holds no state_dict (names to tensors) and no pickled module")
        parts += found
        sources.append(source)
        if find_words and vocabulary is None:
            try:
                vocabulary = find_vocabulary(tree)
            except BadInput as error:
                raise BadInput(f"{file}: the vocabulary in it: {error}; give --vocab FILE") from None
    return Contents(parts, tuple(sources), vocabulary)


def _parts(tree: Any, depth: int, seen: set[int]) -> Iterator[Part]:
    """Yield modules and state_dicts, except for optimisers' and metrics'; `seen` are those that were read.

    A small file may hold one any number of times.
    """
    if id(tree) in seen:
        return
    seen.add(id(tree))
    if isinstance(tree, Stub) and "_modules" in tree.attributes:
        yield Part(unwrapped(state_dict_of(tree)), tree)
    elif isinstance(tree, Mapping) and tree and all(isinstance(key, str) for key in tree):
        if all(isinstance(value, Tensor) for value in tree.values()):
            if any(value.dim() for value in tree.values()):
                yield from _halves(unwrapped(tree))
        elif depth:
            for name, value in tree.items():
                if "optim" not in name.lower():
                    yield from _parts(value, depth - 1, seen)


def _halves(tensors: Mapping[str, Tensor]) -> Iterator[Part]:
    halves: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if (match := _HALF.fullmatch(key)) is None:
            yield Part(tensors)
            return
        halves.setdefault(match[1], {})[match[2]] = value
    yield from (Part(unwrapped(half)) for half in halves.values())


def prefixed(trunk: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a ResNet's tensors under a captioner's keys, without a classification layer."""
    return {f"trunk.{key}": value for key, value in trunk.items() if not key.startswith("fc.")}
