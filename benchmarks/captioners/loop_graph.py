"""Greedy decoding as one ONNX graph: a decoder's step as the body of a `Loop` that runs until every row has ended."""

from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.utils import Extractor

_INT64: Final = TensorProto.INT64


def whole_loop(decoder: bytes, end_id: int) -> bytes:
    """Wrap decoder.onnx in a loop.

    Args:
        decoder: The file; see the contract of decoder.onnx.
        end_id: The token that ends a row.

    Returns:
        A graph that takes `first_token` int64 [R], `first_state_i`, `feature_j`, and `max_tokens` int64 [R] (1 or
        more), and gives `tokens` int64 [T,R] and `token_log_probs` float32 [T,R]. T is the longest row's length; what
        follows a row's end token or its last allowed one is of no meaning.
    """
    whole = onnx.load_from_string(decoder)
    states = [value for value in whole.graph.input if value.name.startswith("state_")]
    features = [value for value in whole.graph.input if value.name.startswith("feature_")]
    # As the server asks for them: what nobody fetches is not computed.
    wanted = ["log_probs", *(f"next_{state.name}" for state in states)]
    step = Extractor(whole).extract_model([value.name for value in whole.graph.input], wanted).graph
    body = helper.make_graph(
        [
            *step.node,
            helper.make_node("ArgMax", ["log_probs"], ["next_token"], axis=1, keepdims=0),
            helper.make_node("ReduceMax", ["log_probs", "vocabulary_axis"], ["token_log_prob"], keepdims=0),
            helper.make_node("Add", ["iteration", "one"], ["length"]),
            helper.make_node("Equal", ["next_token", "end"], ["is_end"]),
            helper.make_node("GreaterOrEqual", ["length", "max_tokens"], ["is_last"]),
            helper.make_node("Or", ["is_end", "is_last"], ["ends"]),
            helper.make_node("Or", ["ended", "ends"], ["next_ended"]),
            helper.make_node("Cast", ["next_ended"], ["next_ended_int"], to=_INT64),
            helper.make_node("ReduceMin", ["next_ended_int"], ["all_ended_int"], keepdims=0),
            helper.make_node("Equal", ["all_ended_int", "zero"], ["go_on"]),
            helper.make_node("Identity", ["next_token"], ["emitted_token"]),
        ],
        "step",
        [
            helper.make_tensor_value_info("iteration", _INT64, []),
            helper.make_tensor_value_info("going_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("token", _INT64, ["rows"]),
            helper.make_tensor_value_info("ended", TensorProto.BOOL, ["rows"]),
            *states,
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next_token", _INT64, ["rows"]),
            helper.make_tensor_value_info("next_ended", TensorProto.BOOL, ["rows"]),
            *(value for value in step.output if value.name != "log_probs"),
            helper.make_tensor_value_info("emitted_token", _INT64, ["rows"]),
            helper.make_tensor_value_info("token_log_prob", TensorProto.FLOAT, ["rows"]),
        ],
        [
            *step.initializer,
            _constant("one", 1),
            _constant("zero", 0),
            _constant("end", end_id),
            _constant("vocabulary_axis", [1]),
        ],
    )
    last = [f"last_{name}" for name in ("token", "ended", *(state.name for state in states))]
    first = [f"first_{state.name}" for state in states]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["max_tokens"], ["most_tokens"], keepdims=0),
            helper.make_node("Less", ["max_tokens", "least"], ["ended_before"]),
            helper.make_node(
                "Loop",
                ["most_tokens", "yes", "first_token", "ended_before", *first],
                [*last, "tokens", "token_log_probs"],
                body=body,
            ),
        ],
        "captions",
        [
            helper.make_tensor_value_info("first_token", _INT64, ["rows"]),
            helper.make_tensor_value_info("max_tokens", _INT64, ["rows"]),
            *(_renamed(state, name) for state, name in zip(states, first, strict=True)),
            *features,
        ],
        [
            helper.make_tensor_value_info("tokens", _INT64, ["length", "rows"]),
            helper.make_tensor_value_info("token_log_probs", TensorProto.FLOAT, ["length", "rows"]),
        ],
        [numpy_helper.from_array(np.array(True), "yes"), _constant("least", 1)],
    )
    model = helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _constant(name: str, value: int | list[int]) -> TensorProto:
    return numpy_helper.from_array(np.array(value, np.int64), name)


def _renamed(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    copy.name = name
    return copy
