"""The decoder with its output layer in int8 and its best words scored again: the graph, for every network there is."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from resonnx_export.errors import BadInput
from resonnx_export.graphs.trace import trace_decoder
from resonnx_export.networks.captioner import Captioner, CaptionerConfig
from resonnx_export.networks.protocol import CaptionNetwork
from resonnx_export.networks.resnet import ResNetConfig
from resonnx_export.networks.show_tell import ShowTell, ShowTellConfig
from resonnx_export.networks.top_down import TopDown, TopDownConfig
from resonnx_export.precision.rescored import RESCORED, find_output_layer, in_blocks, rescore, scoring_weights
from resonnx_export.proof.parity import open_session
from resonnx_proto.v1 import manifest_pb2 as pb

from ..conftest import seeded

WORDS, HIDDEN, ROWS = 200, 40, 5
TRUNK = ResNetConfig("basic", (1, 1), planes=8, num_classes=0, stem="small")


def show_tell(cell: str, layers: int = 1, *, residual: bool = False, says_word: bool = False) -> ShowTell:
    return ShowTell(ShowTellConfig(TRUNK, WORDS, 24, HIDDEN, cell, layers, True, residual, says_word, says_word))


def top_down(kind: str) -> TopDown:
    return TopDown(TopDownConfig(TRUNK, WORDS, 24, HIDDEN, kind, 12))


NETWORKS: dict[str, Callable[[], CaptionNetwork]] = {
    "attention": lambda: Captioner(CaptionerConfig(TRUNK, WORDS, 24, HIDDEN, 12)),
    "picture first": lambda: show_tell("lstm", 2, says_word=True),
    "residual": lambda: show_tell("gru", 3, residual=True),
    "rnn": lambda: show_tell("rnn"),
    "maxout": lambda: show_tell("maxout"),
    "att2in": lambda: top_down("att2in"),
    "att2in2": lambda: top_down("att2in2"),
    "updown": lambda: top_down("updown"),
}


# With attention and without; the others differ from them in their recurrent cells.
_QUICK = ("attention", "picture first")


@pytest.mark.parametrize(
    "name", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
@torch.no_grad()
def test_every_networks_best_words_are_pytorchs(name: str, recipe: pb.ImageInput) -> None:
    with seeded():
        network = NETWORKS[name]().eval().requires_grad_(False)
        for value in network.parameters():
            if value.dim() == 2:
                value *= 3
        state, features, _ = network.encode(torch.randn(ROWS, 3, 32, 32))
        state = tuple(torch.randn_like(each) for each in state)
        tokens = torch.arange(ROWS)
    exact = trace_decoder(network, recipe)
    rescored = rescore(exact)
    expected = network.step(tokens, state, features)
    feeds = {"token": tokens.numpy(), **{f"state_{i}": each.numpy() for i, each in enumerate(state)}}
    feeds |= {f"feature_{i}": each.numpy() for i, each in enumerate(features)}
    session = open_session(rescored)
    assert (session.inputs, session.outputs) == (open_session(exact).inputs, open_session(exact).outputs)
    found = session.run(feeds)
    best = expected.log_probs.topk(16)
    assert np.array_equal(found["top_ids"], best.indices.numpy())
    shift = found["top_log_probs"] - best.values.numpy()
    # All by the same, which is the error of what they are normalised by.
    assert np.ptp(shift, axis=1).max() < 1e-5
    assert 0 < np.abs(shift).max() < 5e-3
    difference = np.abs(found["log_probs"] - expected.log_probs.numpy())
    assert 1e-3 < difference.max() < 0.03 * expected.log_probs.abs().max()
    assert ((difference < 5e-3).sum(axis=1) >= RESCORED).all()
    for i, each in enumerate(expected.state):
        np.testing.assert_allclose(found[f"next_state_{i}"], each.numpy(), atol=1e-5)
    alone = [session.run({key: value[i : i + 1] for key, value in feeds.items()}) for i in range(ROWS)]
    for output, together in found.items():
        assert np.array_equal(np.concatenate([row[output] for row in alone]), together)


def test_same_decoder_same_bytes(captioner_model: tuple[bytes, bytes]) -> None:
    exact = captioner_model[1]
    rescored = rescore(exact)
    assert rescore(exact) == rescored
    graph = onnx.load_model_from_string(rescored)
    assert not any(node.metadata_props or node.doc_string for node in graph.graph.node)
    assert len({node.name for node in graph.graph.node}) == len(graph.graph.node)
    # The weights of the layer are there once in float32, and once in int8.
    stored = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in graph.graph.initializer}
    assert [shape for kind, shape in stored.values() if kind == TensorProto.UINT8] == [[20, 1, 32]]
    assert [name for name, tensor in stored.items() if tensor == (TensorProto.FLOAT, [20, 16])] == ["network.fc.weight"]
    assert scoring_weights(rescored) == ("output_int8_scales", "network.fc.weight")
    with pytest.raises(BadInput, match="is not in int8"):
        scoring_weights(exact)
    with pytest.raises(BadInput, match=r"expected log_probs = LogSoftmax.*found ScatterElements"):
        rescore(rescored)


RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(WORDS, HIDDEN)).astype(np.float32)
BIAS = RNG.normal(size=WORDS).astype(np.float32)


def decoder(nodes: Sequence[onnx.NodeProto], **constants: np.ndarray) -> bytes:
    """hidden [R,H] -> scores by `nodes` -> log_probs and the best three."""
    ends = [
        helper.make_node("LogSoftmax", ["scores"], ["log_probs"], axis=1),
        helper.make_node("TopK", ["log_probs", "three"], ["top_log_probs", "top_ids"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [*nodes, *ends],
        "decoder",
        [value("hidden", TensorProto.FLOAT, ["rows", HIDDEN])],
        [
            value("log_probs", TensorProto.FLOAT, ["rows", WORDS]),
            value("top_log_probs", TensorProto.FLOAT, ["rows", 3]),
            value("top_ids", TensorProto.INT64, ["rows", 3]),
        ],
        [numpy_helper.from_array(array, name) for name, array in {**constants, "three": np.array([3])}.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


def node(kind: str, *inputs: str, to: str = "scores", **attributes: float) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [to], name=f"{kind} to {to}", **attributes)


@pytest.mark.parametrize(
    ("nodes", "constants", "has_bias"),
    [
        ([node("Gemm", "hidden", "w", "b", transB=1)], {"w": WEIGHTS, "b": BIAS}, True),
        ([node("Gemm", "hidden", "w", "b")], {"w": WEIGHTS.T.copy(), "b": BIAS}, True),
        ([node("Gemm", "hidden", "w", transB=1)], {"w": WEIGHTS}, False),
        ([node("MatMul", "hidden", "w")], {"w": WEIGHTS.T.copy()}, False),
        (
            [node("MatMul", "hidden", "w", to="product"), node("Add", "product", "b")],
            {"w": WEIGHTS.T.copy(), "b": BIAS},
            True,
        ),
        (
            [node("MatMul", "hidden", "w", to="product"), node("Add", "b", "product")],
            {"w": WEIGHTS.T.copy(), "b": BIAS},
            True,
        ),
    ],
    ids=["transposed", "plain", "no bias", "product", "product and sum", "sum the other way"],
)
def test_every_form_of_the_layer(
    nodes: Sequence[onnx.NodeProto], constants: dict[str, np.ndarray], has_bias: bool
) -> None:
    rescored = rescore(decoder(nodes, **constants))
    hidden = np.random.default_rng(1).normal(size=(7, HIDDEN)).astype(np.float32)
    scores = hidden.astype(np.float64) @ WEIGHTS.T + (BIAS if has_bias else 0)
    log_probs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    found = open_session(rescored).run({"hidden": hidden})
    order = np.argsort(-log_probs, axis=1)[:, :3]
    assert np.array_equal(found["top_ids"], order)
    np.testing.assert_allclose(found["top_log_probs"], np.take_along_axis(log_probs, order, axis=1), atol=0.02)
    assert 1e-3 < np.abs(found["log_probs"] - log_probs).max() < 0.5
    # The float32 weights are kept once, by word.
    sizes = [tensor.dims for tensor in onnx.load_model_from_string(rescored).graph.initializer if len(tensor.dims) == 2]
    assert sorted(map(tuple, sizes)) == sorted([(WORDS, HIDDEN), (WORDS, 2)])


def test_weights_that_are_the_words_embedding_too_stay(recipe: pb.ImageInput) -> None:
    tied = decoder(
        [node("Gemm", "hidden", "w", "b", transB=1), node("Gather", "w", "three", to="embedded")], w=WEIGHTS, b=BIAS
    )
    graph = onnx.load_model_from_string(rescore(tied)).graph
    (stored,) = (tensor for tensor in graph.initializer if tensor.name == "w")
    assert np.array_equal(numpy_helper.to_array(stored), WEIGHTS)
    assert sum("w" in each.input for each in graph.node) == 2


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([node("Gemm", "hidden", "w", "b", transB=1, alpha=0.5)], {"w": WEIGHTS, "b": BIAS}),
        ([node("Gemm", "hidden", "w", "b", transB=1)], {"w": WEIGHTS, "b": BIAS[:1]}),
        ([node("Gemm", "hidden", "w", transB=1, to="x"), node("Mul", "x", "b")], {"w": WEIGHTS, "b": BIAS}),
        ([node("Identity", "w", to="x"), node("MatMul", "hidden", "x")], {"w": WEIGHTS.T.copy()}),
        (
            [node("MatMul", "hidden", "w", to="x"), node("MatMul", "hidden", "w", to="y"), node("Add", "x", "y")],
            {"w": WEIGHTS.T.copy()},
        ),
        ([node("MatMul", "hidden", "w")], {"w": WEIGHTS.T.copy()[None]}),
    ],
    ids=["scaled", "one bias", "scaled after", "computed weights", "two layers", "three axes"],
)
def test_no_single_output_layer(nodes: Sequence[onnx.NodeProto], constants: dict[str, np.ndarray]) -> None:
    with pytest.raises(BadInput, match=r"expected log_probs = LogSoftmax\(hidden x weights \+ bias\)"):
        rescore(decoder(nodes, **constants))


def test_no_log_softmax() -> None:
    model = onnx.load_model_from_string(decoder([node("Gemm", "hidden", "w", transB=1)], w=WEIGHTS))
    next(each for each in model.graph.node if each.op_type == "LogSoftmax").op_type = "Softmax"
    with pytest.raises(BadInput, match="found Softmax"):
        find_output_layer(model.graph)
    del model.graph.node[:]
    with pytest.raises(BadInput, match="found nothing that makes them"):
        find_output_layer(model.graph)


@pytest.mark.parametrize("size", [1, 31, 32, 33, 100])
def test_blocks_are_as_near_as_their_scale(size: int) -> None:
    weights = np.random.default_rng(size).normal(size=(6, size)).astype(np.float32)
    weights[1] = 0
    weights[2] *= 1e6
    codes, scales = in_blocks(weights)
    assert (codes.shape, scales.shape) == ((6, -(-size // 32), 32), (6, -(-size // 32)))
    restored = ((codes.astype(np.float32) - 128) * scales[:, :, None]).reshape(6, -1)
    assert (np.abs(restored[:, :size] - weights) <= scales.repeat(32, axis=1)[:, :size] * 0.5001).all()
    assert (restored[:, size:] == 0).all()
    assert (scales[1] == 0).all()
