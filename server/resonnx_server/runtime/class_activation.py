"""Class activation maps: how much each position of the last feature map adds to a class's logit.

For a network whose features are the mean of its last feature map, and whose logits are one linear layer of them, the
map of class k is the sum over d of weights[k,d] * feature_map[d]. Its mean plus bias[k] is the logit (Zhou et al.,
"Learning Deep Features for Discriminative Localization", CVPR 2016, equation 2, with means for sums). The exporter
decides whether a network is such a one. Its graph then has the feature map, which it computes anyway, as an output.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.errors import ModelRefused
from resonnx_server.runtime import wire

# The output, float32 [N,D,rows,columns], and the initializers of the linear layer, float32 [K,D] and [K].
FEATURE_MAP: Final = "feature_map"
CLASS_WEIGHTS: Final = "class_weights"
CLASS_BIAS: Final = "class_bias"

# Of max|logits|: the largest difference of maps' means that rounding in float32 explains.
SUM_RTOL: Final = 1e-4

# Fields of onnx.proto: ModelProto, GraphProto, TensorProto.
_GRAPH: Final = 7
_INITIALIZER: Final = 5
_DIMS: Final = 1
_NAME: Final = 8
_RAW_DATA: Final = 9

Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ClassActivation:
    """The linear layer of a classifier: weights float32 [K,D] and bias [K], and rows and columns of its feature map."""

    weights: Float
    bias: Float
    rows: int
    columns: int

    @classmethod
    def of(cls, model: bytes, spec: pb.ClassifierSpec) -> "ClassActivation":
        """Read them from a classifier's ONNX file. Raises ModelRefused if they do not fit its manifest."""
        classes = len(spec.labels)
        weights = _initializer(model, CLASS_WEIGHTS, (classes, None))
        bias = _initializer(model, CLASS_BIAS, (classes,))
        return cls(weights, bias, spec.heatmaps.rows, spec.heatmaps.columns)

    @property
    def map_bytes(self) -> int:
        """Bytes of one picture's feature map."""
        return 4 * self.products

    @property
    def products(self) -> int:
        """Products that a class's map is summed of."""
        return int(self.weights.shape[1]) * self.rows * self.columns

    def maps(self, feature_map: Float, classes: Sequence[int]) -> Float:
        """Return the maps [n,rows,columns] of n classes, given a picture's feature map [D,rows,columns]."""
        flat = feature_map.reshape(len(feature_map), -1)
        maps: Float = (self.weights[np.asarray(classes)] @ flat).reshape(-1, self.rows, self.columns)
        return maps

    def gives(self, feature_maps: Float, logits: Float, rtol: float = SUM_RTOL) -> bool:
        """Return whether maps have these logits as their means, to `rtol` of max|logits|; see deviation."""
        return self.deviation(feature_maps, logits) <= rtol * float(np.abs(logits).max(initial=0.0))

    def deviation(self, feature_maps: Float, logits: Float) -> float:
        """Return max|delta| of N pictures' logits [N,K] from those that feature_maps [N,D,rows,columns] have."""
        means = feature_maps.mean(axis=(2, 3), dtype=np.float64)
        return float(np.abs(means @ self.weights.T + self.bias - logits).max())


def _initializer(model: bytes, name: str, shape: tuple[int | None, ...]) -> Float:
    """Return a copy of a float32 initializer of an ONNX file. None in `shape` is any size.

    Raises:
        ModelRefused: There is none of this name and shape.
    """
    message, wanted = memoryview(model), name.encode()
    try:
        for graph in _fields(message, _GRAPH):
            for tensor in _fields(graph, _INITIALIZER):
                if any(bytes(field) == wanted for field in _fields(tensor, _NAME)):
                    return _values(tensor, name, shape)
    except DecodeError:
        pass
    raise ModelRefused(f"the graph has no initializer {name!r}, which the manifest's heatmaps need")


def _values(tensor: memoryview, name: str, shape: tuple[int | None, ...]) -> Float:
    dims: list[int] = []
    for field in wire.fields(tensor):
        content = tensor[field.content : field.end]
        if field.number == _DIMS:
            # Packed or not, as the writer likes.
            packed = field.kind == wire.BYTES
            dims += wire.varints(np.frombuffer(content, np.uint8)).tolist() if packed else [wire.varint(content)]
    data = next(iter(_fields(tensor, _RAW_DATA)), memoryview(b""))
    fits = len(dims) == len(shape) and all(wanted in (size, None) for size, wanted in zip(dims, shape, strict=True))
    if not fits or len(data) != 4 * math.prod(dims):
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ModelRefused(f"the initializer {name!r} is {dims} of {len(data)} bytes, not float32 [{expected}]")
    return np.frombuffer(data, "<f4").astype(np.float32).reshape(dims)


def _fields(message: memoryview, number: int) -> list[memoryview]:
    """Return the contents of a message's fields of bytes with this number."""
    return [
        message[field.content : field.end]
        for field in wire.fields(message)
        if field.number == number and field.kind == wire.BYTES
    ]
