"""Reads files of torch.save (zip and legacy) and plain pickles to containers, tensors and inert Stubs.

Every size that a file declares is checked against the file's size first.
"""

import io
import mmap
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, cast

import torch
from torch import Tensor

from resonnx_export.checkpoints.archive import Archive
from resonnx_export.checkpoints.pickle_text import BadPickle
from resonnx_export.checkpoints.pickles import Stub, unpickle
from resonnx_export.checkpoints.storages import Rebuild, Storage, element_type, natural
from resonnx_export.errors import BadInput

_SIGNATURES: Final = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89HDF": "an HDF5 file, as Keras writes; files of PyTorch are read",
    b"GGUF": "a GGUF file, of a language model",
    b"\x1f\x8b": "a gzip file (unpack it first)",
    b"<": "an HTML or XML page",
    b"version https://git-lfs": "a Git LFS pointer (fetch the file itself first)",
    b"PK": "a zip archive that is damaged or was not written by torch.save",
    b"\x80": "a pickle that is damaged or was not written by torch.save",
}
# To the signature of a tar file.
HEAD_BYTES: Final = 263
_TAR: Final = slice(257, 262)
# An ONNX model begins with its version of the format, then the name of what wrote it or, with no name, the graph.
_ONNX: Final = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x3a\x42]")
_ONNX_WAY: Final = (
    "an ONNX file, no checkpoint: put it into the repository as NAME/1/model.onnx, where it is served; or add "
    "preprocessing and labels with: resonnx-export onnx FILE --labels LABELS --repository models --name NAME"
)
_MAX_TENSORS: Final = 100_000
_MAX_NAME: Final = 1000
# The first pickle of a legacy file, from torch.serialization.
_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
_DAMAGE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ArithmeticError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read_objects(path: Path) -> object:
    """Read a file of torch.save to plain containers, tensors on the CPU, and Stubs for all other objects.

    Raises:
        BadInput: The file cannot be read, is damaged or another kind of file; the message names the content found.
    """
    with _opened(path, "checkpoint") as (file, head):
        return _read_archive(file) if head.startswith(b"PK") else _read_legacy(file)


def read_pickle(path: Path) -> object:
    """Read a plain pickle to plain containers, and Stubs for all other objects. Raises BadInput if it is damaged."""
    with _opened(path, "pickle") as (file, _), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return unpickle(cast("IO[bytes]", mapped))


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[tuple[io.BufferedReader, bytes]]:
    """Open a file, and turn errors while reading it into BadInput."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    with file:
        head = file.read(HEAD_BYTES)
        file.seek(0)
        if not head:
            raise BadInput(f"{path} is empty")
        try:
            yield file, head
        except BadInput as error:
            raise BadInput(f"{path} {error}") from None
        except _DAMAGE as error:
            # Text can look like a pickle; the error does not help then.
            detail = f" ({error})" if head.startswith((b"PK", b"\x80")) and str(error) else ""
            raise BadInput(f"{path} is not a readable {kind}: it is {_describe(head)}{detail}") from None


def _describe(head: bytes) -> str:
    """Describe a file that is no checkpoint by its first HEAD_BYTES bytes."""
    if head[_TAR] == b"ustar":
        return (
            "a tar archive, as PyTorch before 0.1.10 saved; load it with torch.load(FILE, weights_only=False), if you "
            "trust it, and save its state_dict() with torch.save"
        )
    if _ONNX.match(head):
        return _ONNX_WAY
    for signature, name in _SIGNATURES.items():
        if head.startswith(signature):
            return name
    if head.isascii() and all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return f"text that begins with {head[:24].decode()!r}"
    return f"unknown data that begins with the bytes {head[:8].hex(' ')}"


def _read_archive(file: io.BufferedReader) -> object:
    size = _size(file)
    archive = Archive(file)
    contents: dict[str, Tensor] = {}

    def storage(pid: Any) -> Storage:
        _, storage_type, key, _, count = pid
        dtype, key, count = element_type(storage_type), str(key), natural(count)
        if key not in contents:
            contents[key] = archive.read(f"data/{key}")
        if len(contents[key]) < count * dtype.itemsize:
            raise BadPickle(f"storage {key} is cut short")
        return Storage(contents[key][: count * dtype.itemsize], dtype)

    return unpickle(io.BytesIO(archive.pickle()), Rebuild(size).constructors(), storage)


def _read_legacy(file: io.BufferedReader) -> object:
    storages: dict[str, tuple[Tensor, int]] = {}
    left = size = _size(file)

    def storage(pid: Any) -> object:
        nonlocal left
        if pid[0] == "module":
            # The class, followed by its source code.
            return pid[1]
        _, storage_type, key, _, count, view = pid
        dtype, count = element_type(storage_type), natural(count)
        if key not in storages:
            left -= count * dtype.itemsize
            if left < 0:
                raise BadPickle("the tensors are larger than the file")
            storages[key] = torch.empty(count * dtype.itemsize, dtype=torch.uint8), count
        content = storages[key][0]
        if view is not None:
            start, length = natural(view[1]), natural(view[2])
            content = content[start * dtype.itemsize : (start + length) * dtype.itemsize]
        return Storage(content, dtype)

    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        pickles = cast("IO[bytes]", mapped)
        if unpickle(pickles) != _LEGACY_MAGIC:
            raise BadPickle("torch.save did not write it")
        unpickle(pickles)
        unpickle(pickles)
        tree = unpickle(pickles, Rebuild(size).constructors(), storage)
        keys = unpickle(pickles)
        file.seek(mapped.tell())
    if not isinstance(keys, list) or set(keys) != storages.keys():
        raise BadPickle("storages are not those that the tensors name")
    for key in keys:
        content, count = storages[key]
        declared = int.from_bytes(file.read(8), "little")
        if declared != count or file.readinto(content.numpy().data) != len(content):
            raise BadPickle(f"storage {key} is cut short or damaged")
    return tree


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def state_dict_of(module: Stub) -> dict[str, Tensor]:
    """Return the state_dict of a pickled nn.Module. Raises BadInput if it is no module, or contains itself."""
    found: dict[str, Tensor] = {}
    waiting = [("", module)]
    visited = 0
    while waiting:
        prefix, current = waiting.pop()
        visited += 1
        attributes = current.attributes
        children = attributes.get("_modules")
        if not isinstance(children, dict):
            raise BadInput(f"holds a pickled {current.path}, which is no module of PyTorch's")
        # Modules may be shared or contain themselves, so that a small file has any number of them.
        if visited + len(waiting) + len(found) > _MAX_TENSORS or len(prefix) > _MAX_NAME:
            raise BadInput(f"holds a pickled {module.path} of more parts than any network has")
        transient = attributes.get("_non_persistent_buffers_set")
        for name, value in (*_entries(attributes, "_parameters"), *_entries(attributes, "_buffers")):
            if isinstance(value, Tensor) and not (isinstance(transient, set) and name in transient):
                found[f"{prefix}{name}"] = value
        # Reversed, so that the first child is next, in the order of Module.state_dict().
        waiting += [
            (f"{prefix}{name}.", child)
            for name, child in reversed(_entries(attributes, "_modules"))
            if isinstance(child, Stub)
        ]
    return found


def _entries(attributes: Mapping[Any, Any], name: str) -> list[tuple[str, Any]]:
    entries = attributes.get(name)
    return [(key, value) for key, value in entries.items() if isinstance(key, str)] if isinstance(entries, dict) else []
