"""A graph's inputs and outputs as a configuration declares them: fewer, in another order, or in other shapes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.bfloat16 import BFLOAT16

Array = npt.NDArray[Any]

# By ONNX Runtime's names.
ELEMENT_TYPES: Final[dict[str, npt.DTypeLike]] = {
    "tensor(bool)": np.bool_,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(float16)": np.float16,
    "tensor(bfloat16)": BFLOAT16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(string)": np.object_,
}


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph. `shape` holds sizes, symbolic names, or None for unknown axes."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]

    @property
    def smallest(self) -> tuple[int, ...]:
        """The shape with free sizes of 1."""
        return tuple(size if isinstance(size, int) else 1 for size in self.shape)

    @property
    def least_bytes(self) -> int:
        """Bytes of an array of the shape `smallest`: of one row, if axis 0 is the batch's."""
        return math.prod(self.smallest) * self.dtype.itemsize


def spec_of(node: Any) -> TensorSpec:
    """Return the spec of an input or output of a session of ONNX Runtime. Raises ModelRefused if it is not served."""
    if node.type not in ELEMENT_TYPES:
        raise ModelRefused(f"tensor {node.name!r} has type {node.type}, which is not served")
    # Some exporters write -1 for a free size.
    shape = tuple(None if isinstance(size, int) and size < 0 else size for size in node.shape)
    return TensorSpec(node.name, np.dtype(ELEMENT_TYPES[node.type]), shape)


def row_bytes(*specs: TensorSpec) -> int:
    """Return the bytes of one row of all these tensors; free sizes count as 1, strings as references."""
    return sum(spec.least_bytes for spec in specs)


@dataclass(frozen=True)
class Reshape:
    """Both shapes of a tensor: of equal products between their free sizes, -1, and with equally many of those.

    Attributes:
        shown: As callers see it.
        graph: As the graph has it.
        batched: Axis 0 of arrays is the batch's, and in neither shape.
    """

    shown: tuple[int, ...]
    graph: tuple[int, ...]
    batched: bool

    def to_graph(self, array: Array) -> Array:
        """Return an array of callers in the graph's shape."""
        return self._changed(array, self.shown, self.graph)

    def to_shown(self, array: Array) -> Array:
        """Return an array of the graph in the shape that callers see."""
        return self._changed(array, self.graph, self.shown)

    def _changed(self, array: Array, before: Sequence[int], after: Sequence[int]) -> Array:
        rows = array.shape[: int(self.batched)]
        free = iter([size for size, named in zip(array.shape[len(rows) :], before, strict=True) if named == -1])
        return array.reshape((*rows, *(next(free) if size == -1 else size for size in after)))


@dataclass(frozen=True)
class TensorView:
    """The inputs and outputs of a session as callers see them.

    Attributes:
        inputs: All that the graph needs.
        outputs: Those that are computed.
        overridable: Initializers that callers may override.
        fed: Inputs that the graph has in another shape, by name.
        computed: Likewise, outputs.
        on_request: Further outputs, which only runs return that name them.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    overridable: tuple[TensorSpec, ...]
    fed: Mapping[str, Reshape] = field(default_factory=dict)
    computed: Mapping[str, Reshape] = field(default_factory=dict)
    on_request: tuple[TensorSpec, ...] = ()

    def feeds(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return callers' inputs as the graph takes them."""
        if not self.fed:
            return arrays
        return {name: self.fed[name].to_graph(array) if name in self.fed else array for name, array in arrays.items()}

    def results(self, arrays: dict[str, Array]) -> dict[str, Array]:
        """Return the graph's outputs as callers see them."""
        for name in self.computed.keys() & arrays.keys():
            arrays[name] = self.computed[name].to_shown(arrays[name])
        return arrays
