"""Reads inputs' contents, raw or typed, to NumPy arrays, in pieces (see pieces.py).

Source: Open Inference Protocol v2, "Tensor data"; BYTES elements are a 4-byte little-endian length and the bytes.
"""

import math
from collections.abc import Iterable
from struct import Struct
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError
from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.errors import InvalidInput
from resonnx_server.memory.regions import Place
from resonnx_server.protocol.pieces import Work
from resonnx_server.runtime import wire
from resonnx_server.runtime.session import Array

InputTensor = pb.ModelInferRequest.InferInputTensor

# Strings from which on arrays are freed in pieces.
MANY_STRINGS: Final = 1 << 16
# Read at once: about a millisecond.
_PIECE_ELEMENTS: Final = 1 << 12
_PIECE_BYTES: Final = 1 << 16
_COPIED_BYTES: Final = 1 << 20

_LENGTH: Final = Struct("<I").unpack_from
# The typed field of a datatype. FP16 and BF16 have none: they are raw only.
_CONTENTS: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
# The types that protobuf gives to varints of these fields.
_WRITTEN_AS: Final = {"int_contents": ("u4", "i4"), "uint_contents": ("u4", "u4"), "int64_contents": ("u8", "i8")}
_NUMBERS: Final = {name: pb.InferTensorContents.DESCRIPTOR.fields_by_name[name].number for name in _CONTENTS.values()}


def field_of(tensor: InputTensor) -> str:
    """Return an input's name in errors."""
    return f"inputs[{tensor.name[:64]!r}]"


def from_raw(
    raw: bytes | memoryview, shape: tuple[int, ...], dtype: np.dtype[Any], tensor: InputTensor, *, is_typed: bool
) -> Work[Array]:
    """Return an input of raw bytes, without a copy if they are numbers and aligned.

    Raises:
        InvalidInput: The number of bytes does not fit the shape, or typed contents are set as well.
    """
    if is_typed:
        raise InvalidInput(f"{field_of(tensor)}.contents", "must not be set when raw_input_contents is used")
    check_size(len(raw), shape, dtype, tensor)
    if dtype.hasobject:
        return (yield from _split_bytes(raw, math.prod(shape), field_of(tensor))).reshape(shape)
    return (yield from _aligned(np.frombuffer(raw, np.uint8), dtype)).reshape(shape)


def from_place(place: Place, shape: tuple[int, ...], dtype: np.dtype[Any], tensor: InputTensor) -> Work[Array]:
    """Return an input that lies in shared memory, copied once.

    Raises:
        InvalidInput: The number of bytes does not fit the shape, contents are set as well, or the segment is shorter.
    """
    raw = (yield from place.read()).data
    return (yield from from_raw(raw, shape, dtype, tensor, is_typed=False))


def check_size(size: int, shape: tuple[int, ...], dtype: np.dtype[Any], tensor: InputTensor) -> None:
    """Raise InvalidInput if `size` raw bytes cannot be an input of this shape."""
    count = math.prod(shape)
    if dtype.hasobject:
        # An element takes 4 bytes at least: a huge declared shape is refused before anything is allocated for it.
        if count * 4 > size:
            raise InvalidInput(field_of(tensor), f"{size} bytes cannot hold {count} BYTES elements")
    elif size != count * dtype.itemsize:
        raise InvalidInput(
            field_of(tensor), f"{size} bytes; {tensor.datatype} {list(shape)} has {count * dtype.itemsize}"
        )


def from_contents(
    contents: memoryview | None, shape: tuple[int, ...], dtype: np.dtype[Any], tensor: InputTensor
) -> Work[Array]:
    """Return an input of typed contents, given serialized, or None if `tensor` holds them.

    Raises:
        InvalidInput: The datatype has none, the number of values does not fit the shape, or a value the datatype.
    """
    count, name = math.prod(shape), _CONTENTS.get(tensor.datatype)
    if name is None:
        raise InvalidInput(field_of(tensor), f"{tensor.datatype} has no typed contents; use raw_input_contents")
    if contents is None:
        # A small message's.
        contents = memoryview(tensor.contents.SerializeToString())
    where = f"{field_of(tensor)}.contents.{name}"
    try:
        if dtype.hasobject:
            return (yield from _strings(contents, _NUMBERS[name], shape, where)).reshape(shape)
        packed = yield from _packed(contents, _NUMBERS[name])
        if name in ("fp32_contents", "fp64_contents"):
            _check_count(packed.nbytes / dtype.itemsize, shape, where)
            return (yield from _aligned(packed, dtype)).reshape(shape)
        values = 0
        for piece in wire.pieces_of_varints(packed, _PIECE_BYTES):
            values += wire.count_varints(piece)
            yield
        _check_count(values, shape, where)
        return (yield from _integers(packed, np.empty(count, dtype), name, where)).reshape(shape)
    except DecodeError:
        raise InvalidInput(where, "does not parse") from None


def _check_count(values: float, shape: tuple[int, ...], where: str) -> None:
    if values != math.prod(shape):
        raise InvalidInput(where, f"{values:.15g} values; shape {list(shape)} has {math.prod(shape)}")


def _strings(contents: memoryview, number: int, shape: tuple[int, ...], where: str) -> Work[Array]:
    """Return the strings of the fields of one number. An element takes at least 2 bytes."""
    strings = np.empty(min(math.prod(shape), len(contents) // 2), object)
    count = 0
    for i, found in enumerate(wire.fields(contents)):
        if i % _PIECE_ELEMENTS == _PIECE_ELEMENTS - 1:
            yield
        if found.number == number and found.kind == wire.BYTES:
            if count < len(strings):
                strings[count] = bytes(contents[found.content : found.end])
            count += 1
    _check_count(count, shape, where)
    return strings


def _packed(contents: memoryview, number: int) -> Work[wire.Bytes]:
    """Return the numbers of the fields of one number, packed. An unpacked one is written as in a pack of one."""
    packed: memoryview | bytearray = memoryview(b"")
    for i, found in enumerate(wire.fields(contents)):
        if i % _PIECE_ELEMENTS == _PIECE_ELEMENTS - 1:
            yield
        if found.number != number:
            continue
        part = contents[found.content : found.end]
        if not packed:
            packed = part
        else:
            packed = packed if isinstance(packed, bytearray) else bytearray(packed)
            packed += part
    return np.frombuffer(packed, np.uint8)


def _integers(packed: wire.Bytes, array: Array, name: str, where: str) -> Work[Array]:
    start = 0
    for piece in wire.pieces_of_varints(packed, _PIECE_BYTES):
        values: Array = wire.varints(piece)
        if (written := _WRITTEN_AS.get(name)) is not None:
            values = values.astype(written[0]).view(written[1])
        if array.dtype.kind in "iu":
            limits = np.iinfo(array.dtype)
            if len(values) and not limits.min <= int(values.min()) <= int(values.max()) <= limits.max:
                raise InvalidInput(where, f"a value is not within {limits.min}..{limits.max}")
        array[start : start + len(values)] = values
        start += len(values)
        yield
    return array


def _aligned(content: wire.Bytes, dtype: np.dtype[Any]) -> Work[Array]:
    """Return bytes as numbers, copied if they are not aligned."""
    aligned = content.view(dtype)
    if not aligned.flags.aligned:
        copy = np.empty(len(content), np.uint8)
        for start in range(0, len(content), _COPIED_BYTES):
            copy[start : start + _COPIED_BYTES] = content[start : start + _COPIED_BYTES]
            yield
        aligned = copy.view(dtype)
    return aligned


def _split_bytes(raw: bytes | memoryview, count: int, field: str) -> Work[Array]:
    elements = np.empty(count, object)
    position = 0
    for i in range(count):
        if i % _PIECE_ELEMENTS == _PIECE_ELEMENTS - 1:
            yield
        if position + 4 > len(raw):
            raise InvalidInput(field, f"BYTES element {i} of {count} is missing")
        (length,) = _LENGTH(raw, position)
        position += 4
        if position + length > len(raw):
            raise InvalidInput(field, f"BYTES element {i} says {length} bytes, {len(raw) - position} are left")
        elements[i] = bytes(raw[position : position + length])
        position += length
    if position != len(raw):
        raise InvalidInput(field, f"{len(raw) - position} bytes are left after {count} BYTES elements")
    return elements


def cleared(arrays: Iterable[Array]) -> Work[None]:
    """Free strings in pieces: millions at once would hold the GIL for long."""
    for array in arrays:
        if array.dtype.hasobject:
            flat = array.reshape(-1)
            for start in range(_PIECE_ELEMENTS, len(flat), _PIECE_ELEMENTS):
                flat[start : start + _PIECE_ELEMENTS] = None
                yield
