"""Reads checkpoint files (.pth, .pt, .safetensors) to a state_dict, without running code from them.

The format is detected from the content. Of pickled modules, the tensors are taken; sources/pickled.py reads more.
"""

import hashlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from resonnx_export.checkpoints.containers import Weights, content, narrowed, weights_in
from resonnx_export.checkpoints.modules import module_names
from resonnx_export.checkpoints.pickles import Stub
from resonnx_export.checkpoints.unpickle import HEAD_BYTES, read_objects
from resonnx_export.errors import BadInput

_LISTED: Final = 8


@dataclass(frozen=True)
class SourceFile:
    """The identity of a checkpoint file: name without folders (valid UTF-8), sha256 in hex, and size in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Checkpoint:
    """One network's tensors in a file.

    Attributes:
        state_dict: By key, on the CPU.
        notes: Lines for the user.
        name: Where it is in the file: "model", "checkpoint.state_dict"; "" for the whole file.
        others: The names of the file's other networks.
        prefix: The part of the name given by --weights that is a prefix of the keys, without the last dot.
        module: The pickled module, where one was saved whole.
        recurrent: The key of a recurrent layer anywhere in the file; "" if there is none.
        tree: The whole content, as of read_tree.
        modules: The names of the network's modules, if they are known.
    """

    state_dict: dict[str, Tensor]
    file: SourceFile
    notes: tuple[str, ...] = ()
    name: str = ""
    others: tuple[str, ...] = ()
    prefix: str | None = None
    module: Stub | None = None
    recurrent: str = ""
    tree: object = None
    modules: frozenset[str] = frozenset()


def load_checkpoint(path: Path, weights: str | None = None) -> Checkpoint:
    """Read the tensors of a file with one network; `weights` names one of several, as --weights.

    Raises BadInput, which names the content found, if there is none, or several of which none is preferred.
    """
    first, *others = load_checkpoints(path, weights)
    if others:
        listed = ", ".join(repr(each.name) for each in (first, *others))
        raise BadInput(f"{path} holds several networks: {listed}; choose one with --weights NAME")
    return first


def load_checkpoints(path: Path, weights: str | None = None) -> tuple[Checkpoint, ...]:
    """Read the tensors of each network that a file may be exported as. Raises BadInput if there is none."""
    tree, file = read_tree(path)
    try:
        found, recurrent = weights_in(tree)
        if not found:
            raise BadInput(f"holds {content(tree)}")
        chosen, prefix = narrowed(found, weights)
    except BadInput as error:
        raise BadInput(f"{path} {error}") from None
    names = tuple(each.name for each in found)
    return tuple(
        replace(
            _checkpoint(each, file, names, prefix),
            recurrent=recurrent,
            tree=tree,
            modules=module_names(tree, each.tensors),
        )
        for each in chosen
    )


def _checkpoint(found: Weights, file: SourceFile, names: Sequence[str], prefix: str | None) -> Checkpoint:
    notes = []
    if found.left_out:
        notes.append(f"left out, as no tensors: {', '.join(found.left_out[:_LISTED])}")
    others = tuple(name for name in names if name != found.name)
    if others:
        listed = ", ".join(map(repr, others[:_LISTED]))
        notes.append(f"the weights are those of {found.name!r}; the file also has {listed}")
    return Checkpoint(dict(found.tensors), file, tuple(notes), found.name, others, prefix, found.module)


def read_tree(path: Path) -> tuple[object, SourceFile]:
    """Read a checkpoint file to containers, tensors on the CPU, and Stubs for all other objects. Raises BadInput."""
    source = identify(path)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return _load_safetensors(path) if _is_safetensors(head, source.size) else read_objects(path), source


def identity(name: str, content: bytes) -> SourceFile:
    """Return the identity of a file that was read."""
    return SourceFile(_valid(name), hashlib.sha256(content).hexdigest(), len(content))


def identify(path: Path) -> SourceFile:
    """Return the identity of a file. Raises BadInput if it cannot be read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    return SourceFile(_valid(path.name), digest, size)


def _valid(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "replace")


def _is_safetensors(head: bytes, size: int) -> bool:
    """Detect the format by its start: the header's length (8 bytes), then the header, a JSON object."""
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= size - 8


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{path} is a damaged safetensors file: {error}") from None
