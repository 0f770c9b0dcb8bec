"""Adds the output drift_features to a graph: what the server compares with reference pictures.

They are the features of the network, and the roughness of the picture: the mean difference between neighbouring
pixels. A network that was trained on noisy pictures may ignore noise, so its features alone would not show it.
"""

import re
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from resonnx_server.runtime.graphs import DRIFT_FEATURES, IMAGE

from resonnx_export.graphs.trace import finish

# Every so many rows of pixels one is compared with the next; all would take several times as long, and tell no more.
_STEP: Final = 4
_CHANNELS: Final = 3
_WHITE: Final = 255.0
_PREFIX: Final = "drift_"


def with_drift_features(model: bytes) -> bytes:
    """Return a classifier's or an encoder's graph with one more output, drift_features float32 [N,D+3].

    They are D features, then the roughness of red, green and blue, 0 to 1. A classifier's features are those before its
    head; an encoder's all its states and features, each averaged over its positions.
    """
    proto = onnx.load_model_from_string(model)
    graph = proto.graph
    parts, size = [], _CHANNELS
    for output in graph.output:
        if re.fullmatch(r"features|(state|feature)_\d+", output.name):
            parts.append(_pooled(graph, output))
            size += output.type.tensor_type.shape.dim[-1].dim_value
    _roughness(graph)
    _node(graph, "Concat", [*parts, f"{_PREFIX}roughness"], DRIFT_FEATURES, axis=1)
    rows = graph.output[0].type.tensor_type.shape.dim[0].dim_param
    graph.output.append(helper.make_tensor_value_info(DRIFT_FEATURES, TensorProto.FLOAT, [rows, size]))
    return finish(proto)


def _pooled(graph: onnx.GraphProto, output: onnx.ValueInfoProto) -> str:
    """Return the name of an output [N,...,D], averaged over all axes between."""
    inner = range(1, len(output.type.tensor_type.shape.dim) - 1)
    if not inner:
        return output.name
    name = f"{_PREFIX}{output.name}"
    _constant(graph, f"{output.name}_axes", np.array(inner, np.int64))
    _node(graph, "ReduceMean", [output.name, f"{name}_axes"], name, keepdims=0)
    return name


def _roughness(graph: onnx.GraphProto) -> None:
    """Add the mean of |pixel - pixel below it| / 255 for each channel [N,3], of every _STEP-th row of pixels."""
    height = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    # Both have the same number of rows: those that have one below them.
    for part, first in (("upper", 0), ("lower", 1)):
        last = max(height - 1, 1) + first
        for bound, value in (("from", first), ("to", last), ("axis", 1), ("step", _STEP)):
            _constant(graph, f"{part}_{bound}", np.array([value], np.int64))
        bounds = [f"{_PREFIX}{part}_{bound}" for bound in ("from", "to", "axis", "step")]
        _node(graph, "Slice", [IMAGE, *bounds], f"{_PREFIX}{part}_bytes")
        _node(graph, "Cast", [f"{_PREFIX}{part}_bytes"], f"{_PREFIX}{part}", to=TensorProto.FLOAT)
    _node(graph, "Sub", [f"{_PREFIX}upper", f"{_PREFIX}lower"], f"{_PREFIX}steps")
    _node(graph, "Abs", [f"{_PREFIX}steps"], f"{_PREFIX}heights")
    _constant(graph, "pixels", np.array([1, 2], np.int64))
    _node(graph, "ReduceMean", [f"{_PREFIX}heights", f"{_PREFIX}pixels"], f"{_PREFIX}mean", keepdims=0)
    _constant(graph, "white", np.array(_WHITE, np.float32))
    _node(graph, "Div", [f"{_PREFIX}mean", f"{_PREFIX}white"], f"{_PREFIX}roughness")


def _constant(graph: onnx.GraphProto, name: str, value: np.ndarray) -> None:
    graph.initializer.append(numpy_helper.from_array(value, f"{_PREFIX}{name}"))


def _node(graph: onnx.GraphProto, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
    graph.node.append(helper.make_node(kind, inputs, [output], name=f"node_{output}", **attributes))
