"""Builds tensors from a file's storages as torch does, after checking the sizes that a pickle declares."""

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from resonnx_export.checkpoints.pickle_text import BadPickle
from resonnx_export.checkpoints.pickles import Constructors
from resonnx_export.errors import BadInput

_MAX_DIMENSIONS: Final = 8
_SHARED_ALLOWANCE: Final = 256 << 20
_STORAGES: Final = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
_QUANTISED: Final = ("QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage")


@dataclass(frozen=True)
class Storage:
    """A storage's bytes, and the type of its elements."""

    content: Tensor
    dtype: torch.dtype


class Rebuild:
    """Builds tensors from storages as torch._utils._rebuild_tensor_v2 does, if they lie inside.

    Tensors may share a storage, so that copies of a small file's tensors would need any amount of memory: the total is
    limited by `size`, the file's in bytes.
    """

    def __init__(self, size: int) -> None:
        self._left = size + _SHARED_ALLOWANCE

    def constructors(self) -> Constructors:
        """Return the functions that a pickle may call."""
        return {
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
            "torch._tensor._rebuild_from_type_v2": self._from_type,
            "torch.Size": lambda sizes=(): sizes,
        }

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        if not isinstance(storage, Storage) or not 0 <= len(size) == len(stride) <= _MAX_DIMENSIONS:
            raise BadPickle("a tensor without storage, or of an unknown kind")
        values = storage.content.view(storage.dtype)
        offset = natural(offset)
        size, stride = [natural(count) for count in size], [natural(step) for step in stride]
        last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
        if 0 not in size and last >= len(values):
            raise BadPickle("a tensor lies outside its storage")
        self._left -= math.prod(size) * storage.dtype.itemsize
        if self._left < 0:
            raise BadPickle("the tensors repeat a storage more often than those of any network")
        return values.as_strided(size, stride, min(offset, len(values)))

    def _from_type(self, function: Any, _: Any, args: Any, state: Any) -> object:
        return self.constructors()[function.path](*args)


def natural(number: Any) -> int:
    """Return a size. Raises BadPickle if it is no number in range."""
    if isinstance(number, int) and 0 <= number < 1 << 48:
        return number
    raise BadPickle("a tensor's size is no number in range")


def element_type(storage_type: Any) -> torch.dtype:
    """Return the element type of a storage class, by its Name. Raises BadInput if it is not supported."""
    name = storage_type.path.removeprefix("torch.").removeprefix("cuda.").removeprefix("storage.")
    if name in _QUANTISED:
        raise BadInput(f"holds quantised tensors ({name}): export the float checkpoint that they were made from")
    if name not in _STORAGES:
        raise BadInput(f"holds tensors of the kind {storage_type.path!r}, which are not read")
    return _STORAGES[name]
