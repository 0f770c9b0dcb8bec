"""Graphs in int8 and fp16: what is reduced, what stays, and that the same input gives the same bytes."""

import onnx
from onnx import TensorProto
from resonnx_export.graphs.trunk import find_trunk
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.precision.fp16 import to_fp16
from resonnx_export.precision.int8 import quantiser
from resonnx_export.proof.parity import open_session
from resonnx_proto.v1 import manifest_pb2 as pb


def test_graphs_keep_their_contract(model: bytes, recipe: pb.ImageInput) -> None:
    with quantiser(model, check_pictures(recipe, 8, seed=1)) as tool:
        reduced = {"int8": tool.quantise(), "fp16": to_fp16(model)}
    exact = open_session(model)
    for graph in map(onnx.load_model_from_string, reduced.values()):
        scores = next(node for node in graph.graph.node if node.op_type == "Gemm")
        weights = {weight.name: weight.data_type for weight in graph.graph.initializer}
        assert [weights[name] for name in scores.input[1:]] == [TensorProto.FLOAT, TensorProto.FLOAT]
        assert not any(node.metadata_props or node.doc_string for node in graph.graph.node)
        assert not graph.metadata_props
    for content in reduced.values():
        session = open_session(content)
        assert (session.inputs, session.outputs) == (exact.inputs, exact.outputs)


def test_int8_is_int8_where_it_matters(model: bytes, recipe: pb.ImageInput) -> None:
    with quantiser(model, check_pictures(recipe, 8, seed=1)) as tool:
        graph = onnx.load_model_from_string(tool.quantise()).graph
        # Activations are fused, a Relu left over would cost most of the speed; only the feature map's stays.
        assert [node.name for node in graph.node if node.op_type == "Relu"] == [
            name for name in find_trunk(onnx.load_model_from_string(model).graph).tail if "relu" in name
        ]
        types = {weight.name: (weight.data_type, list(weight.dims)) for weight in graph.initializer}
        made = {node.output[0]: node for node in graph.node}
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        for node in convolutions:
            weight, scale, _ = made[node.input[1]].input
            assert types[weight][0] == TensorProto.INT8
            assert types[scale][1] == types[weight][1][:1]
            assert types[made[node.input[0]].input[2]][0] == TensorProto.UINT8
        assert tool.blocks == ("conv1", "layer1.0", "layer2.0", "layer3.0")
        partly = onnx.load_model_from_string(tool.quantise(["conv1", "layer2.0"])).graph
        float_weights = [w.name for w in partly.initializer if w.data_type == TensorProto.FLOAT and len(w.dims) == 4]
        assert len(float_weights) == 1 + 3


def test_same_pictures_same_bytes(model: bytes, recipe: pb.ImageInput) -> None:
    graphs = []
    for _ in range(2):
        with quantiser(model, check_pictures(recipe, 8, seed=1)) as tool:
            # The second comes from stored ranges.
            graphs += [tool.quantise(), tool.quantise()]
    assert len(set(graphs)) == 1
    assert to_fp16(model) == to_fp16(model)


def test_trunk_ends_with_the_feature_map(model: bytes) -> None:
    graph = onnx.load_model_from_string(model).graph
    trunk = find_trunk(graph)
    others = [node.op_type for node in graph.node if node.name not in trunk.nodes]
    assert others == ["Transpose", "Cast", "Mul", "Add", "ReduceMean", "Gemm", "Softmax"]
    assert (len(trunk.inputs), len(trunk.outputs)) == (1, 1)
