"""Reads checkpoint files (.pth, .pt, .safetensors) to a state_dict, without running what they hold.

What a file is, is told from its content. Pickles are read with PyTorch's restricted unpickler: tensors and plain
containers only.
"""

import hashlib
import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from resonnx_export.errors import BadInput

# One level of these around the state_dict is taken off.
_CONTAINERS: Final = ("state_dict", "model")
_FORBIDDEN: Final = re.compile(r"GLOBAL ([\w.]+)")
_SIGNATURES: Final = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip file (unpack it first)",
    b"<": "an HTML or XML page",
    b"version https://git-lfs": "a Git LFS pointer (fetch the file itself first)",
}


@dataclass(frozen=True)
class Checkpoint:
    """A file's tensors by name, as stored, and the file's sha256 (hex)."""

    state_dict: dict[str, Tensor]
    sha256: str


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file on the CPU.

    Raises:
        BadInput: The file cannot be read, or holds something else than tensors by name; says what was found.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    if size == 0:
        raise BadInput(f"{path} is empty")
    content = _load_safetensors(path) if _is_safetensors(head, size) else _load_torch(path, head)
    return Checkpoint(_unwrap(path, content), digest)


def _is_safetensors(head: bytes, size: int) -> bool:
    """Tell the format by its start: the header's length (8 bytes), then the header, a JSON object."""
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= size - 8


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{path} is a damaged safetensors file: {error}") from None


def _load_torch(path: Path, head: bytes) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Text may pass for a pickle, too: the letter c begins a name in its oldest form.
        if head.startswith((b"PK", b"\x80")) and (forbidden := _FORBIDDEN.search(str(error))):
            raise BadInput(
                f"{path} holds a pickled {forbidden[1]}, which loading would have to run; "
                "save the model's state_dict() and export that"
            ) from None
        raise BadInput(f"{path} is not a checkpoint: it is {_describe(head)}") from None
    except Exception:  # torch raises RuntimeError, EOFError, KeyError, UnicodeDecodeError, ... on foreign bytes
        raise BadInput(f"{path} is not a readable checkpoint: it is {_describe(head)}") from None


def _describe(head: bytes) -> str:
    for signature, name in _SIGNATURES.items():
        if head.startswith(signature):
            return name
    if head.startswith(b"PK"):
        return "a zip archive that is damaged or was not written by torch.save"
    if head.startswith(b"\x80"):
        return "a pickle that is damaged or was not written by torch.save"
    if head.isascii() and all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return f"text that begins with {head[:24].decode()!r}"
    return f"unknown data that begins with the bytes {head[:8].hex(' ')}"


def _unwrap(path: Path, content: Any) -> dict[str, Tensor]:
    """Return the state_dict, out of one level of a known container if need be."""
    if isinstance(content, Mapping):
        if _is_state_dict(content):
            return _detached(content)
        for name in _CONTAINERS:
            if _is_state_dict(content.get(name)):
                return _detached(content[name])
        listed = ", ".join(f"{key} ({type(value).__name__})" for key, value in list(content.items())[:8])
        raise BadInput(f"{path} holds no state_dict (names to tensors), but {listed or 'nothing'}")
    raise BadInput(f"{path} holds no state_dict (names to tensors), but a {type(content).__name__}")


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )


def _detached(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach() for key, value in state_dict.items()}
