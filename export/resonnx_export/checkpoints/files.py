"""Reads checkpoint files (.pth, .pt, .safetensors) to a state_dict, without running code from them.

The format is detected from the content. Of whole pickled models, only the weights are read.
"""

import hashlib
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from resonnx_export.checkpoints.pickles import Stub
from resonnx_export.checkpoints.unpickle import HEAD_BYTES, read_objects, state_dict_of
from resonnx_export.errors import BadInput

# Keys under which training scripts store the weights, in order of preference.
_CONTAINERS: Final = ("state_dict", "model", "model_state_dict", "net", "model_ema", "state_dict_ema")


@dataclass(frozen=True)
class SourceFile:
    """The identity of a checkpoint file: name without folders (valid UTF-8), sha256 in hex, and size in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Checkpoint:
    """A file's tensors by name, on the CPU; notes for the user tell which of several weights were read.

    `tree` is the whole content, as of read_tree.
    """

    state_dict: dict[str, Tensor]
    file: SourceFile
    notes: tuple[str, ...] = ()
    tree: object = None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file's tensors. Raises BadInput, which names the content found, if there are none."""
    content, file = read_tree(path)
    try:
        state_dict, notes = _unwrap(content)
    except BadInput as error:
        raise BadInput(f"{path} {error}") from None
    return Checkpoint(state_dict, file, notes, content)


def read_tree(path: Path) -> tuple[object, SourceFile]:
    """Read a checkpoint file to containers, tensors on the CPU, and Stubs for all other objects. Raises BadInput."""
    source = identify(path)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return _load_safetensors(path) if _is_safetensors(head, source.size) else read_objects(path), source


def identify(path: Path) -> SourceFile:
    """Return the identity of a file. Raises BadInput if it cannot be read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    return SourceFile(os.fsencode(path.name).decode("utf-8", "replace"), digest, size)


def _is_safetensors(head: bytes, size: int) -> bool:
    """Detect the format by its start: the header's length (8 bytes), then the header, a JSON object."""
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= size - 8


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{path} is a damaged safetensors file: {error}") from None


def _unwrap(content: object) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the state_dict, which may be in a known container, and notes."""
    if (found := _weights(content)) is not None:
        return found
    if isinstance(content, Stub):
        raise BadInput(
            f"holds a pickled {content.path}, which is no module of PyTorch's; save its state_dict() instead"
        )
    if not isinstance(content, Mapping):
        raise BadInput(f"holds no state_dict (names to tensors), but a {type(content).__name__}")
    present = {name: found for name in _CONTAINERS if (found := _weights(content.get(name))) is not None}
    if not present:
        listed = ", ".join(f"{key} ({_kind(value)})" for key, value in list(content.items())[:8])
        raise BadInput(f"holds no state_dict (names to tensors), but {listed or 'nothing'}")
    (name, (state_dict, notes)), *others = present.items()
    if others:
        notes += (f"the weights are those of {name!r}; the file also has {', '.join(repr(n) for n, _ in others)}",)
    return state_dict, notes


def _weights(content: Any) -> tuple[dict[str, Tensor], tuple[str, ...]] | None:
    """Return a state_dict, or that of a pickled module, with notes; None if `content` is neither."""
    if isinstance(content, Stub) and "_modules" in content.attributes:
        return state_dict_of(content), (f"only the weights of the pickled {content.path} were read, not its code",)
    if isinstance(content, Mapping) and content:
        named = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
        return (named, ()) if len(named) == len(content) else None
    return None


def _kind(value: object) -> str:
    return value.path if isinstance(value, Stub) else type(value).__name__
