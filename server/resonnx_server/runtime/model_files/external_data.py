"""Moves external data, tensors that an ONNX file keeps in other files, into the ONNX file.

ONNX Runtime would look for these files in the working directory, and follow links.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from resonnx_server.errors import ModelRefused
from resonnx_server.runtime import wire
from resonnx_server.runtime.model_files.files import MAX_FILE_BYTES

# Returns the content of a file of the version's folder, of at most so many bytes. Raises ModelRefused.
ReadFile = Callable[[str, int], bytes]

# By message of onnx.proto: the fields that hold tensors, at any depth.
_CHILDREN: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
# Fields of ModelProto and GraphProto.
_GRAPH: Final = 7
_INITIALIZER: Final = 5
# Bytes of a tensor that is looked into by its fields.
_LARGE: Final = 64 << 10
# Fields of TensorProto, and the value of data_location.
_RAW_DATA: Final = 9
_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14
_EXTERNAL: Final = 1
# Every reference has an entry with this key.
_KEY: Final = b"location"
# As protobuf.
_MAX_DEPTH: Final = 100
# A second or two of reading; ResNet-152 has 10,000.
_MAX_FIELDS: Final = 1_000_000

_Piece = bytes | memoryview


def with_external_data(file: str, model: bytes, read: ReadFile) -> bytes:
    """Return an ONNX file that holds all its tensors.

    Args:
        file: The file's name, for errors; other files cannot be referred to by it.
        model: Its content.
        read: Reads the files that it refers to.

    Raises:
        ModelRefused: A reference names no file that `read` permits, or a range outside it; the whole is larger than an
            ONNX file may be; or the file does not parse.
    """
    if not _may_refer(model):
        return model
    try:
        pieces = _Inliner(file, len(model), read).message(memoryview(model), "model", 0)
    except (DecodeError, ValueError) as error:
        raise ModelRefused(f"{file} is damaged: {error}") from None
    return model if pieces is None else b"".join(pieces)


def _may_refer(model: bytes) -> bool:
    """Return whether a file may have external data, without a search of its large tensors, which takes long."""
    try:
        return any(_KEY in bytes(part) for part in _parts_of(memoryview(model)))
    except DecodeError:
        return _KEY in model


def _parts_of(model: memoryview) -> Iterator[memoryview]:
    """Yield all of a file but its large tensors without external data."""
    for field in wire.fields(model):
        content = model[field.content : field.end]
        if field.number != _GRAPH or field.kind != wire.BYTES:
            yield content
            continue
        for part in wire.fields(content):
            inner = content[part.content : part.end]
            is_tensor = part.number == _INITIALIZER and part.kind == wire.BYTES
            if (
                not is_tensor
                or len(inner) < _LARGE
                or any(each.number == _EXTERNAL_DATA for each in wire.fields(inner))
            ):
                yield inner


class _Inliner:
    def __init__(self, file: str, size: int, read: ReadFile) -> None:
        self._file, self._size, self._read = file, size, read
        self._fields = 0
        self._files: dict[str, bytes] = {}
        self._held = 0

    def message(self, message: memoryview, kind: str, depth: int) -> list[_Piece] | None:
        """Return a message with its tensors' external data inside, in pieces; None if it has none."""
        if depth > _MAX_DEPTH:
            raise ModelRefused(f"{self._file} nests messages deeper than {_MAX_DEPTH}")
        children = _CHILDREN[kind]
        pieces: list[_Piece] = []
        kept = 0
        for field in wire.fields(message):
            self._fields += 1
            if self._fields > _MAX_FIELDS:
                raise ModelRefused(f"{self._file} has external data and more than {_MAX_FIELDS} fields")
            child = children.get(field.number) if field.kind == wire.BYTES else None
            if child is None:
                continue
            content = message[field.content : field.end]
            new = self._tensor(content) if child == "tensor" else self.message(content, child, depth + 1)
            if new is not None:
                pieces += [message[kept : field.start], wire.opening(field.number, sum(map(len, new))), *new]
                kept = field.end
        return [*pieces, message[kept:]] if kept else None

    def _tensor(self, tensor: memoryview) -> Sequence[_Piece] | None:
        entries: dict[str, str] = {}
        rest: list[_Piece] = []
        is_external = False
        for field in wire.fields(tensor):
            self._fields += 1
            content = tensor[field.content : field.end]
            if field.number == _EXTERNAL_DATA and field.kind == wire.BYTES:
                entries.update([_entry(content)])
            elif field.number == _DATA_LOCATION and field.kind == wire.VARINT:
                is_external = wire.varint(content) & 0xFFFFFFFF == _EXTERNAL
            elif field.number != _RAW_DATA:
                rest.append(tensor[field.start : field.end])
        if not is_external:
            return None
        data = self._data(entries)
        return [*rest, wire.opening(_RAW_DATA, len(data)), data]

    def _data(self, entries: Mapping[str, str]) -> memoryview:
        location = entries.get(_KEY.decode(), "")
        if location == self._file:
            raise ModelRefused(f"{self._file}: external data refers to the file itself")
        if location not in self._files:
            self._files[location] = self._read(location, MAX_FILE_BYTES - self._held)
            self._held += len(self._files[location])
        file = self._files[location]
        offset = _number(entries, "offset", 0)
        length = _number(entries, "length", len(file) - offset)
        if not (0 <= offset <= len(file) and 0 <= length <= len(file) - offset):
            raise ModelRefused(
                f"{self._file}: a tensor is {length} bytes from {offset} of {location!r}, which has {len(file)} bytes"
            )
        self._size += length
        if self._size > MAX_FILE_BYTES:
            raise ModelRefused(
                f"{self._file} has {self._size} bytes or more with its external data; {MAX_FILE_BYTES} are allowed"
            )
        return memoryview(file)[offset : offset + length]


def _entry(message: memoryview) -> tuple[str, str]:
    """Read a StringStringEntryProto."""
    found = {1: "", 2: ""}
    for field in wire.fields(message):
        if field.kind == wire.BYTES:
            found[field.number] = str(message[field.content : field.end], "utf-8")
    return found[1], found[2]


def _number(entries: Mapping[str, str], key: str, default: int) -> int:
    value = entries.get(key, "")
    if not value:
        return default
    if not (value.isascii() and value.isdigit() and len(value) < 20):
        raise ModelRefused(f"external data has {key} {value[:64]!r}, which is not a number of bytes")
    return int(value)
