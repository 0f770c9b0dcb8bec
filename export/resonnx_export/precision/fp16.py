"""Converts a graph's trunk to float16. Normalisation, scores, inputs and outputs stay in float32."""

import onnx
from onnx import TensorProto, helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from resonnx_export.graphs.trace import finish
from resonnx_export.graphs.trunk import find_trunk


def to_fp16(model: bytes) -> bytes:
    """Return the graph with its trunk's weights and operations in float16, and casts around it."""
    proto = onnx.load_model_from_string(model)
    graph = proto.graph
    trunk = find_trunk(graph)
    names = set(trunk.nodes)
    inside = [node for node in graph.node if node.name in names]
    used = {name for node in inside for name in node.input}
    weights = [weight for weight in graph.initializer if weight.name in used]

    # The trunk alone: in a whole graph the converter passes scores through float16 even where it keeps them in float32.
    enter, leave = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
        for names in (trunk.inputs, trunk.outputs)
    )
    alone = helper.make_graph(inside, "trunk", enter, leave, weights)
    converted = convert_float_to_float16(
        helper.make_model(alone, opset_imports=proto.opset_import), keep_io_types=True
    ).graph

    for node in inside:
        graph.node.remove(node)
    for weight in weights:
        graph.initializer.remove(weight)
    graph.node.extend(converted.node)
    graph.initializer.extend(converted.initializer)
    OnnxModel(proto).topological_sort(is_deterministic=True)
    return finish(proto)
