"""Takes captioner files apart into the modules in them: state_dicts or pickled whole, one a file or all in one."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from resonnx_export.checkpoints.files import SourceFile, read_tree
from resonnx_export.checkpoints.unpickle import Stub, state_dict_of
from resonnx_export.errors import BadInput

# A state_dict of both halves: "encoder.resnet.0.weight", "decoderRNN.embed.weight".
_HALF: Final = re.compile(r"((?:encoder|decoder)[^.]*)\.(.+)", re.IGNORECASE)
# DataParallel and torch.compile put these before every key.
_WRAPPERS: Final = ("module.", "_orig_mod.")
_MAX_DEPTH: Final = 3


@dataclass(frozen=True)
class Part:
    """One module's tensors by key, and its plain attributes where it was pickled whole."""

    tensors: Mapping[str, Tensor]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{len(self.tensors)} keys, the first {', '.join(list(self.tensors)[:3])}"


def read_parts(files: Sequence[Path]) -> tuple[list[Part], tuple[SourceFile, ...]]:
    """Read files to the parts in them, and tell which files they were, in order.

    Raises:
        BadInput: A file cannot be read or holds no tensors by name.
    """
    parts, sources = [], []
    for file in files:
        tree, source = read_tree(file)
        if not (found := list(_parts(tree, _MAX_DEPTH))):
            raise BadInput(f"{file} holds no state_dict (names to tensors) and no pickled module")
        parts += found
        sources.append(source)
    return parts, tuple(sources)


def _parts(tree: Any, depth: int) -> Iterator[Part]:
    """Yield what is a module or a state_dict, but for optimisers' tensors."""
    if isinstance(tree, Stub) and "_modules" in tree.attributes:
        yield Part(_unwrapped(state_dict_of(tree)), tree.attributes)
    elif isinstance(tree, Mapping) and tree and all(isinstance(key, str) for key in tree):
        if all(isinstance(value, Tensor) for value in tree.values()):
            yield from _halves(_unwrapped(tree))
        elif depth:
            for name, value in tree.items():
                if "optim" not in name.lower():
                    yield from _parts(value, depth - 1)


def _unwrapped(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    for wrapper in _WRAPPERS:
        if all(key.startswith(wrapper) for key in tensors):
            tensors = {key.removeprefix(wrapper): value for key, value in tensors.items()}
    return tensors


def _halves(tensors: Mapping[str, Tensor]) -> Iterator[Part]:
    halves: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if (match := _HALF.fullmatch(key)) is None:
            yield Part(tensors)
            return
        halves.setdefault(match[1], {})[match[2]] = value
    yield from (Part(_unwrapped(half)) for half in halves.values())
