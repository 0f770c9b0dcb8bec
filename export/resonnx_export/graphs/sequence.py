"""Builds sequence.onnx and step.onnx from a recurrent network's weights, with ONNX's own recurrent operators.

Those take each clip's length: frames beyond it are not read, and a backward direction begins at the clip's own end.
Torch's exporter would unroll the cells over a fixed number of frames.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.video.graphs import FEATURES, LENGTHS, LOGITS

from resonnx_export.graphs.recurrent_nodes import Nodes
from resonnx_export.graphs.trace import OPSET, finish
from resonnx_export.networks.video import RecurrentVideo

_FLOAT: Final = TensorProto.FLOAT
_CLIPS, _FRAMES = "clips", "frames"


def sequence_graph(network: RecurrentVideo) -> bytes:
    """Return sequence.onnx: features float32 [clips,frames,D] and lengths int64 [clips] -> logits [clips,K]."""
    nodes, config = Nodes(), network.config.sequence
    x = _projected(nodes, network, FEATURES) if network.trunk is None else FEATURES
    x = nodes.add("Transpose", [x], perm=[1, 0, 2])
    lengths = nodes.add("Cast", [LENGTHS], to=TensorProto.INT32)
    outputs = state = x
    for number, cells in enumerate(network.sequence.cells):
        whole, states = nodes.recurrent(config.cell, cells, x, lengths=lengths)
        outputs, state = nodes.joined_directions(whole, config.directions), states[0]
        x = nodes.add("Add", [outputs, x]) if config.residual and number > 0 else outputs
    pooled = _pooled(nodes, network, x, state)
    logits = _logits(nodes, network, pooled)
    features = helper.make_tensor_value_info(FEATURES, _FLOAT, [_CLIPS, _FRAMES, network.feature_size])
    given = helper.make_tensor_value_info(LENGTHS, TensorProto.INT64, [_CLIPS])
    return _finished(nodes, "sequence", [features, given], {LOGITS: (logits, network.num_classes)})


def step_graph(network: RecurrentVideo) -> tuple[bytes, list[pb.VideoClassifierSpec.State]]:
    """Return step.onnx of a network of one direction, and the states that it hands on, all zeros before a clip.

    features float32 [clips,D] and state_i [clips,...] -> logits [clips,K] of the frames so far, and next_state_i.
    """
    nodes, config = Nodes(), network.config.sequence
    assert not config.bidirectional
    names: list[str] = []
    following: dict[str, tuple[str, int]] = {}

    def state(size: int) -> str:
        names.append(f"state_{len(names)}")
        following[f"next_{names[-1]}"] = ("", size)
        return names[-1]

    def hand_on(name: str, value: str) -> None:
        following[f"next_{name}"] = (value, following[f"next_{name}"][1])

    x = _projected(nodes, network, FEATURES) if network.trunk is None else FEATURES
    for number, (cells, size) in enumerate(zip(network.sequence.cells, config.hidden, strict=True)):
        own = [state(size) for _ in range(2 if config.cell == "lstm" else 1)]
        frame = nodes.add("Unsqueeze", [x, nodes.axes(0)])
        _, states = nodes.recurrent(config.cell, cells, frame, start=own)
        after = [nodes.add("Squeeze", [each, nodes.axes(0)]) for each in states]
        for name, value in zip(own, after, strict=True):
            hand_on(name, value)
        last = after[0]
        x = nodes.add("Add", [last, x]) if config.residual and number > 0 else last
    match config.pooling:
        case "last":
            pooled = x
        case "states":
            pooled = last
        case "mean":
            total, count = state(config.hidden[-1]), state(1)
            sums = nodes.add("Add", [total, x])
            counted = nodes.add("Add", [count, nodes.constant(np.array([1], np.float32))])
            hand_on(total, sums)
            hand_on(count, counted)
            pooled = nodes.add("Div", [sums, counted])
        case "max":
            greatest, count = state(config.hidden[-1]), state(1)
            pooled = nodes.add("Where", [nodes.is_zero(count), x, nodes.add("Max", [greatest, x])])
            hand_on(greatest, pooled)
            hand_on(count, nodes.add("Add", [count, nodes.constant(np.array([1], np.float32))]))
        case _:
            # A softmax that is extended by one frame: weights are relative to the greatest score so far.
            weighted, total, greatest = state(config.hidden[-1]), state(1), state(1)
            score = nodes.layers(network.sequence.attention, x)
            before = nodes.add("Where", [nodes.is_zero(total), score, greatest])
            most = nodes.add("Max", [before, score])
            kept = nodes.add("Exp", [nodes.add("Sub", [before, most])])
            weight = nodes.add("Exp", [nodes.add("Sub", [score, most])])
            sums = nodes.add("Add", [nodes.add("Mul", [weighted, kept]), nodes.add("Mul", [x, weight])])
            totals = nodes.add("Add", [nodes.add("Mul", [total, kept]), weight])
            hand_on(weighted, sums)
            hand_on(total, totals)
            hand_on(greatest, most)
            pooled = nodes.add("Div", [sums, totals])
    logits = _logits(nodes, network, pooled)
    sizes = [following[f"next_{name}"][1] for name in names]
    features = helper.make_tensor_value_info(FEATURES, _FLOAT, [_CLIPS, network.feature_size])
    given = [
        helper.make_tensor_value_info(name, _FLOAT, [_CLIPS, size]) for name, size in zip(names, sizes, strict=True)
    ]
    graph = _finished(nodes, "step", [features, *given], {LOGITS: (logits, network.num_classes), **following})
    handed_on = zip(names, sizes, strict=True)
    return graph, [pb.VideoClassifierSpec.State(name=name, shape=[size]) for name, size in handed_on]


def _projected(nodes: Nodes, network: RecurrentVideo, x: str) -> str:
    """Add the layers between given features and the cells."""
    return nodes.layers(network.features_activation, nodes.layers(network.project, x))


def _logits(nodes: Nodes, network: RecurrentVideo, pooled: str) -> str:
    return nodes.layers(network.sequence.head, nodes.layers(network.sequence.pooled_activation, pooled))


def _pooled(nodes: Nodes, network: RecurrentVideo, outputs: str, state: str) -> str:
    """Add pooling of the last layer's outputs [T,N,W], whose last states are [directions,N,H]: one vector [N,W]."""
    config = network.config.sequence
    match config.pooling:
        case "last":
            return _last(nodes, outputs, config.pooled_size)
        case "states":
            rows = nodes.add("Transpose", [state], perm=[1, 0, 2])
            return nodes.add("Reshape", [rows, nodes.constant(np.array([0, config.pooled_size], np.int64))])
        case "backward":
            return nodes.add("Gather", [state, nodes.constant(np.array(1, np.int64))], axis=0)
    mask = _mask(nodes)
    match config.pooling:
        case "mean":
            sums = nodes.add("ReduceSum", [nodes.masked(mask, outputs, 0.0), nodes.axes(0)], keepdims=0)
            counts = nodes.add("Cast", [LENGTHS], to=_FLOAT)
            return nodes.add("Div", [sums, nodes.add("Unsqueeze", [counts, nodes.axes(1)])])
        case "max":
            return nodes.add("ReduceMax", [nodes.masked(mask, outputs, -np.inf), nodes.axes(0)], keepdims=0)
    scores = nodes.masked(mask, nodes.layers(network.sequence.attention, outputs), -np.inf)
    weights = nodes.add("Softmax", [scores], axis=0)
    return nodes.add("ReduceSum", [nodes.add("Mul", [weights, outputs]), nodes.axes(0)], keepdims=0)


def _last(nodes: Nodes, outputs: str, size: int) -> str:
    """Add the choice of each clip's last frame from outputs [T,N,W]: row (length - 1) * N + n of [T*N,W]."""
    zero, one = (nodes.constant(np.array(number, np.int64)) for number in (0, 1))
    count = nodes.add("Squeeze", [nodes.add("Shape", [LENGTHS]), nodes.axes(0)])
    starts = nodes.add("Mul", [nodes.add("Sub", [LENGTHS, one]), count])
    rows = nodes.add("Add", [starts, nodes.add("Range", [zero, count, one])])
    flat = nodes.add("Reshape", [outputs, nodes.constant(np.array([-1, size], np.int64))])
    return nodes.add("Gather", [flat, rows], axis=0)


def _mask(nodes: Nodes) -> str:
    """Add the mask [T,N,1] of the frames that belong to a clip."""
    frames = nodes.add("Shape", [FEATURES], start=1, end=2)
    count = nodes.add("Squeeze", [frames, nodes.axes(0)])
    zero, one = (nodes.constant(np.array(number, np.int64)) for number in (0, 1))
    positions = nodes.add("Unsqueeze", [nodes.add("Range", [zero, count, one]), nodes.axes(1, 2)])
    return nodes.add("Less", [positions, nodes.add("Unsqueeze", [LENGTHS, nodes.axes(0, 2)])])


def _finished(
    nodes: Nodes, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: dict[str, tuple[str, int]]
) -> bytes:
    infos = []
    for output, (value, size) in outputs.items():
        nodes.name(value, output)
        infos.append(helper.make_tensor_value_info(output, _FLOAT, [_CLIPS, size]))
    graph = helper.make_graph(nodes.nodes, name, inputs, infos, nodes.weights)
    opset = helper.make_opsetid("", OPSET)
    return finish(helper.make_model(graph, opset_imports=[opset], ir_version=8, producer_name="resonnx"))
