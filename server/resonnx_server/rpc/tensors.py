"""The tensor protocol's encoding: raw little-endian bytes or typed contents to NumPy arrays (answers.py writes them).

Facts: Open Inference Protocol v2, "Tensor data"; BYTES elements are a 4-byte little-endian length and the bytes.
"""

import math
import struct
from typing import Any, Final

import numpy as np
from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.errors import InvalidInput
from resonnx_server.runtime.session import Array

InputTensor = pb.ModelInferRequest.InferInputTensor

_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
_MAX_RANK: Final = 8
# Without sizes of 0: of an empty tensor NumPy multiplies the others as well.
_MAX_ELEMENTS: Final = 2**31 - 1
# Integers that are converted at once: about 2 ms.
_PART: Final = 1 << 16
_NAMES: Final[dict[np.dtype[Any], str]] = {dtype: name for name, dtype in _DTYPES.items()}
# Which typed field holds a datatype. FP16 has none: it travels raw only.
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


def datatype(dtype: np.dtype[Any]) -> str:
    """Return the protocol's name of a dtype, e.g. "FP32"; objects are BYTES."""
    return _NAMES[dtype]


def field(tensor: InputTensor) -> str:
    """Return what an error calls an input; not made where there is none."""
    return f"inputs[{tensor.name[:64]!r}]"


def shape_of(tensor: InputTensor) -> tuple[int, ...]:
    """Return an input's shape, whatever its sizes. Raises InvalidInput for too many axes."""
    shape = tuple(tensor.shape[: _MAX_RANK + 1])
    if len(shape) > _MAX_RANK:
        raise InvalidInput(f"{field(tensor)}.shape", f"{len(tensor.shape)} dimensions, more than {_MAX_RANK}")
    return shape


def check_sizes(shape: tuple[int, ...], field: str) -> None:
    """Raise InvalidInput for sizes that no tensor has."""
    if any(size < 0 for size in shape):
        raise InvalidInput(f"{field}.shape", f"size {min(shape)} is negative")
    if math.prod(size or 1 for size in shape) > _MAX_ELEMENTS:
        raise InvalidInput(f"{field}.shape", f"{list(shape)} is over {_MAX_ELEMENTS} elements")


def dtype_of(tensor: InputTensor) -> np.dtype[Any]:
    """Return an input's dtype; BYTES are objects. Raises InvalidInput for a datatype that is none."""
    dtype = _DTYPES.get(tensor.datatype)
    if dtype is None:
        raise InvalidInput(f"{field(tensor)}.datatype", f"{tensor.datatype[:32]!r} is not one of {', '.join(_DTYPES)}")
    return dtype


def from_raw(raw: bytes, shape: tuple[int, ...], dtype: np.dtype[Any], tensor: InputTensor) -> Array:
    """Return an input that came as raw bytes, which a numeric one shares.

    Raises:
        InvalidInput: The bytes are more or fewer than the shape says; or typed contents are there as well.
    """
    if tensor.HasField("contents"):
        raise InvalidInput(f"{field(tensor)}.contents", "must not be set when raw_input_contents is used")
    count = math.prod(shape)
    if dtype.hasobject:
        return _split_bytes(raw, count, field(tensor)).reshape(shape)
    if len(raw) != count * dtype.itemsize:
        raise InvalidInput(
            field(tensor), f"{len(raw)} bytes; {tensor.datatype} {list(shape)} has {count * dtype.itemsize}"
        )
    return np.ndarray(shape, dtype, raw)


def from_contents(shape: tuple[int, ...], dtype: np.dtype[Any], tensor: InputTensor) -> Array:
    """Return an input that came as typed contents.

    Raises:
        InvalidInput: The datatype has none; the values are more or fewer than the shape says, or beyond the datatype.
    """
    count, name = math.prod(shape), _CONTENTS.get(tensor.datatype)
    if name is None:
        raise InvalidInput(field(tensor), f"{tensor.datatype} has no typed contents; use raw_input_contents")
    values = getattr(tensor.contents, name)
    if len(values) != count:
        raise InvalidInput(f"{field(tensor)}.contents.{name}", f"{len(values)} values; shape {list(shape)} has {count}")
    if dtype.hasobject:
        array = np.empty(count, object)
        array[:] = list(values)
    elif dtype.kind in "iu":
        array = np.empty(count, dtype)
        # In parts, so that other threads come to run between them.
        for start in range(0, count, _PART):
            part = values[start : start + _PART]
            try:
                array[start : start + _PART] = np.fromiter(part, dtype, len(part))
            except OverflowError:
                limits = np.iinfo(dtype)
                raise InvalidInput(
                    f"{field(tensor)}.contents.{name}", f"a value is not within {limits.min}..{limits.max}"
                ) from None
    else:
        # Packed, they end a message as the array has them: 200 times as fast as taking them one by one.
        packed = pb.InferTensorContents()
        getattr(packed, name).MergeFrom(values)
        content = packed.SerializeToString()
        array = np.frombuffer(content[len(content) - count * dtype.itemsize :], dtype)
    return array.reshape(shape)


def _split_bytes(raw: bytes, count: int, field: str) -> Array:
    # An element takes 4 bytes at least: a huge declared shape is refused before anything is allocated for it.
    if count * 4 > len(raw):
        raise InvalidInput(field, f"{len(raw)} bytes cannot hold {count} BYTES elements")
    elements = np.empty(count, object)
    position = 0
    for i in range(count):
        if position + 4 > len(raw):
            raise InvalidInput(field, f"BYTES element {i} of {count} is missing")
        (length,) = struct.unpack_from("<I", raw, position)
        position += 4
        if position + length > len(raw):
            raise InvalidInput(field, f"BYTES element {i} says {length} bytes, {len(raw) - position} are left")
        elements[i] = raw[position : position + length]
        position += length
    if position != len(raw):
        raise InvalidInput(field, f"{len(raw) - position} bytes are left after {count} BYTES elements")
    return elements
