"""The tensor protocol's datatypes and shapes, and what errors call an input. contents.py and answers.py do the rest."""

import math
from typing import Any, Final

import numpy as np
from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.errors import InvalidInput

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
_NAMES: Final[dict[np.dtype[Any], str]] = {dtype: name for name, dtype in _DTYPES.items()}


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
