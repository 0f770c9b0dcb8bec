"""What a request asks of a model's outputs, checked before anything runs."""

from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_server.errors import InvalidInput
from resonnx_server.inference.registry import Model
from resonnx_server.protocol.oip.parameters import check_classification, keeps_order, parse_parameters
from resonnx_server.runtime.session import TensorSpec


def _check(rows: int, top_k: int, *shape: int | str, dtype: Any = np.float32, max_batch_size: int = 8) -> None:
    request = pb.ModelInferRequest()
    request.outputs.add(name="y").parameters["classification"].int64_param = top_k
    inputs, outputs = (TensorSpec("x", np.dtype("f4"), ("n", 4)),), (TensorSpec("y", np.dtype(dtype), shape),)
    model = Mock(Model, inputs=inputs, outputs=outputs, max_batch_size=max_batch_size)
    check_classification(parse_parameters(request), model, {"x": np.zeros((rows, 4), np.float32)})


def test_classes_of_all_rows_are_counted_before_a_batch_runs() -> None:
    _check(1000, 1000, "n", 1000)
    _check(1001, 7, "n", 1000)
    with pytest.raises(InvalidInput, match="requests 1001000 classes in total"):
        _check(1001, 1000, "n", 1000)
    with pytest.raises(InvalidInput, match="requests 1001000 classes in total"):
        _check(1001, 2**40, "n", 1000)


def test_what_is_not_batched_has_the_classes_of_its_shape() -> None:
    _check(1001, 1000, 1000, max_batch_size=0)
    with pytest.raises(InvalidInput, match="requests 1000001 classes in total"):
        _check(1, 1_000_001, 2_000_000, max_batch_size=0)


def test_only_the_answer_tells_how_many_classes_an_open_shape_has() -> None:
    _check(1000, 2**40, "n", "classes")


def test_strings_are_no_classes() -> None:
    with pytest.raises(InvalidInput, match="classification needs a numeric output, which 'y' is not"):
        _check(1, 1, "n", 3, dtype=object)


def test_words_are_streamed_only_on_request() -> None:
    request = pb.ModelInferRequest()
    request.parameters["max_tokens"].int64_param = 5
    assert not parse_parameters(request).stream
    for wanted in (False, True):
        request.parameters["stream"].bool_param = wanted
        assert parse_parameters(request).stream is wanted


@pytest.mark.parametrize(
    ("parameters", "kept"),
    [
        ({}, True),
        ({"max_tokens": {"int64_param": 5}}, True),
        ({"preserve_ordering": {"bool_param": True}}, True),
        ({"preserve_ordering": {"bool_param": False}}, False),
        ({"preserve_ordering": {"int64_param": 0}}, True),
        ({"stream": {"bool_param": True}}, False),
        ({"stream": {"bool_param": False}}, True),
    ],
)
def test_answers_keep_their_order_unless_a_request_asks_otherwise(parameters: dict[str, Any], kept: bool) -> None:
    request = pb.ModelInferRequest()
    for name, value in parameters.items():
        request.parameters[name].CopyFrom(pb.InferParameter(**value))
    assert keeps_order(request) is kept
