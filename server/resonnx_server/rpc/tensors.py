"""The tensor protocol's encoding: raw little-endian bytes or typed contents to NumPy arrays, and arrays to raw bytes.

Facts: Open Inference Protocol v2, "Tensor data"; BYTES elements are a 4-byte little-endian length and the bytes.
Answers are always raw: Triton's clients read nothing else.
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
}
_MAX_RANK: Final = 8
# An empty tensor must not name sizes that NumPy cannot multiply either.
_MAX_SIZE: Final = 2**31 - 1
_NAMES: Final[dict[np.dtype[Any], str]] = {dtype: name for name, dtype in _DTYPES.items()} | {np.dtype(object): "BYTES"}
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


def read_inputs(request: pb.ModelInferRequest) -> dict[str, Array]:
    """Decode all inputs of a request by name; BYTES become object arrays of bytes.

    Raises:
        InvalidInput: A datatype, shape or length that does not fit; names the input.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(
            "raw_input_contents", f"{len(raw)} entries for {len(request.inputs)} inputs; give one each, or none"
        )
    arrays: dict[str, Array] = {}
    for i, tensor in enumerate(request.inputs):
        name, shape = tensor.name, tuple(tensor.shape)
        if name in arrays:
            raise InvalidInput(_field(tensor), "given twice")
        _check_shape(shape, tensor)
        if "shared_memory_region" in tensor.parameters:
            raise InvalidInput(f"{_field(tensor)}.parameters", "shared memory is not supported")
        if raw:
            if tensor.HasField("contents"):
                raise InvalidInput(f"{_field(tensor)}.contents", "must not be set when raw_input_contents is used")
            arrays[name] = _from_raw(raw[i], shape, tensor)
        else:
            arrays[name] = _from_contents(shape, tensor)
    return arrays


def _field(tensor: InputTensor) -> str:
    """Return what an error calls an input; not made where there is none."""
    return f"inputs[{tensor.name[:64]!r}]"


def _check_shape(shape: tuple[int, ...], tensor: InputTensor) -> None:
    # Before anything is computed from it: the product of many large sizes alone takes seconds.
    if len(shape) > _MAX_RANK:
        raise InvalidInput(f"{_field(tensor)}.shape", f"{len(shape)} dimensions, more than {_MAX_RANK}")
    for size in shape:
        if not 0 <= size <= _MAX_SIZE:
            wrong = "negative" if size < 0 else f"over {_MAX_SIZE}"
            raise InvalidInput(f"{_field(tensor)}.shape", f"size {size} is {wrong}")


def _from_raw(raw: bytes, shape: tuple[int, ...], tensor: InputTensor) -> Array:
    count = math.prod(shape)
    if tensor.datatype == "BYTES":
        return _split_bytes(raw, count, _field(tensor)).reshape(shape)
    dtype = _dtype(tensor)
    if len(raw) != count * dtype.itemsize:
        raise InvalidInput(
            _field(tensor), f"{len(raw)} bytes; {tensor.datatype} {list(shape)} has {count * dtype.itemsize}"
        )
    return np.frombuffer(raw, dtype).reshape(shape)


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


def _from_contents(shape: tuple[int, ...], tensor: InputTensor) -> Array:
    count, field = math.prod(shape), _field(tensor)
    name = _CONTENTS.get(tensor.datatype)
    if name is None:
        _dtype(tensor)
        raise InvalidInput(field, f"{tensor.datatype} has no typed contents; use raw_input_contents")
    values = getattr(tensor.contents, name)
    if len(values) != count:
        raise InvalidInput(f"{field}.contents.{name}", f"{len(values)} values; shape {list(shape)} has {count}")
    if tensor.datatype == "BYTES":
        elements = np.empty(count, object)
        elements[:] = list(values)
        return elements.reshape(shape)
    dtype = _dtype(tensor)
    array = np.array(values)
    if array.size and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise InvalidInput(f"{field}.contents.{name}", f"a value is not within {limits.min}..{limits.max}")
    return array.astype(dtype).reshape(shape)


def _dtype(tensor: InputTensor) -> np.dtype[Any]:
    dtype = _DTYPES.get(tensor.datatype)
    if dtype is None:
        known = ", ".join([*_DTYPES, "BYTES"])
        raise InvalidInput(f"{_field(tensor)}.datatype", f"{tensor.datatype[:32]!r} is not one of {known}")
    return dtype


def write_output(response: pb.ModelInferResponse, name: str, array: Array) -> None:
    """Append an output with its raw content."""
    dtype = array.dtype
    response.outputs.add(name=name, datatype=_NAMES[dtype], shape=array.shape)
    if dtype.hasobject:
        parts = [value if isinstance(value, bytes) else str(value).encode() for value in array.ravel()]
        response.raw_output_contents.append(b"".join(struct.pack("<I", len(part)) + part for part in parts))
    else:
        response.raw_output_contents.append(array.tobytes())
