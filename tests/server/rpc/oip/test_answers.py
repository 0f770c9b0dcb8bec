"""Answers written by us are what protobuf would write; over the limit they are refused before they are built."""

import asyncio
import struct
import tracemalloc
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_server.errors import InvalidInput, MessageTooLarge
from resonnx_server.inference.registry import Model
from resonnx_server.protocol.oip import outputs as parts
from resonnx_server.protocol.oip.describe import DATATYPES
from resonnx_server.protocol.oip.outputs import Output, requested_outputs
from resonnx_server.protocol.oip.serving import Inferred
from resonnx_server.protocol.pieces import Pieces
from resonnx_server.rpc.oip.answers import AnswerEncoder

PIECES = Pieces()


def _head() -> pb.ModelInferResponse:
    head = pb.ModelInferResponse(model_name="m", model_version="1", id="r-1")
    head.parameters["triton_final_response"].bool_param = True
    return head


def _raw(array: np.ndarray) -> bytes:
    if not array.dtype.hasobject:
        return array.tobytes()
    encoded = [value if isinstance(value, bytes) else value.encode() for value in array.ravel()]
    return b"".join(struct.pack("<I", len(value)) + value for value in encoded)


def _by_protobuf(tensors: list[np.ndarray]) -> pb.ModelInferResponse:
    response = _head()
    for number, array in enumerate(tensors):
        response.outputs.add(name=str(number), datatype=DATATYPES[array.dtype], shape=array.shape)
        response.raw_output_contents.append(_raw(array))
    return response


tensors = st.one_of(
    arrays.arrays(st.sampled_from(["?", "u1", "<i8", "<f2", "<f4"]), arrays.array_shapes(min_dims=0, min_side=0)),
    arrays.arrays(
        object, arrays.array_shapes(min_side=0), elements=st.one_of(st.text("aé😀", max_size=200), st.binary())
    ),
)


@given(st.lists(tensors, max_size=4), st.booleans(), st.booleans(), st.integers(1, 50))
async def test_answers_are_what_protobuf_writes(
    given: list[np.ndarray], streamed: bool, small: bool, size: int
) -> None:
    expected = _by_protobuf(given)
    # Content of another order in memory, and cut into pieces of any size.
    outputs = [Output(str(number), np.array(array, order="F")) for number, array in enumerate(given)]
    before = parts.SMALL_BYTES, parts._PIECE_BYTES, parts._PIECE_ELEMENTS
    parts.SMALL_BYTES, parts._PIECE_BYTES, parts._PIECE_ELEMENTS = (1 << 18 if small else 0, size, size)
    try:
        message = await AnswerEncoder(1 << 20, PIECES).encode(_head(), outputs, streamed=streamed)
    finally:
        parts.SMALL_BYTES, parts._PIECE_BYTES, parts._PIECE_ELEMENTS = before
    if streamed:
        assert pb.ModelStreamInferResponse.FromString(message).infer_response == expected
    else:
        assert pb.ModelInferResponse.FromString(message) == expected


numbers = st.dictionaries(
    st.text(max_size=3),
    arrays.arrays(st.sampled_from(["?", "u1", "<i8", "<f2", "<f4"]), arrays.array_shapes(min_dims=1, min_side=0)),
    max_size=3,
)


@given(numbers, st.data(), st.text(max_size=200), st.booleans(), st.booleans())
async def test_answers_of_few_numbers_are_what_all_others_are(
    given: dict[str, np.ndarray], data: st.DataObject, identifier: str, batched: bool, streamed: bool
) -> None:
    """A second time as well, when what describes them is known; to the byte, and to the byte of the limit."""
    wanted = data.draw(st.lists(st.sampled_from([*given]), unique=True)) if given else []
    model = Mock(Model, version=7, max_batch_size=4 if batched else 0)
    model.name = "m"
    request = pb.ModelInferRequest(id=identifier)
    inferred = Inferred(model, given, wanted)
    answers = [await AnswerEncoder(1 << 20, PIECES).answer(request, inferred, streamed=streamed) for _ in range(2)]
    head = pb.ModelInferResponse(model_name="m", model_version="7", id=identifier)
    if streamed:
        head.parameters["triton_final_response"].bool_param = True
    outputs = requested_outputs(*inferred)
    assert answers == [await AnswerEncoder(1 << 20, PIECES).encode(head, outputs, streamed=streamed)] * 2
    size = len(answers[0])
    assert await AnswerEncoder(size, PIECES).answer(request, inferred, streamed=streamed) == answers[0]
    with pytest.raises(MessageTooLarge, match=f"the answer has {size} bytes"):
        await AnswerEncoder(size - 1, PIECES).answer(request, inferred, streamed=streamed)


async def test_classes_take_the_place_of_their_output() -> None:
    scores = np.array([[0.5, 0.25], [0.125, 1]], np.float32)
    outputs = [Output("scores", scores, 2, ("a", "b")), Output("features", scores)]
    answer = pb.ModelInferResponse.FromString(await AnswerEncoder(1 << 20, PIECES).encode(_head(), outputs))
    assert [(o.name, o.datatype, [*o.shape]) for o in answer.outputs] == [
        ("scores", "BYTES", [2, 2]),
        ("features", "FP32", [2, 2]),
    ]
    classes = np.array([b"0.500000:0:a", b"0.250000:1:b", b"1.000000:1:b", b"0.125000:0:a"], object)
    assert [*answer.raw_output_contents] == [_raw(classes), scores.tobytes()]


STRINGS = np.full(100_000, "x" * 20, object)


@pytest.mark.parametrize(
    "array", [np.zeros(300_000, np.float32), STRINGS, np.full(300_000, "", object)], ids=["numbers", "strings", "empty"]
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_the_limit_is_exact_and_checked_before_anything_is_built(array: np.ndarray, streamed: bool) -> None:
    expected = _by_protobuf([array])
    size = len((pb.ModelStreamInferResponse(infer_response=expected) if streamed else expected).SerializeToString())
    encode = AnswerEncoder(size, PIECES).encode
    assert len(await encode(_head(), [Output("0", array.copy())], streamed=streamed)) == size
    with pytest.raises(
        MessageTooLarge, match=f"the answer has {size} bytes, more than .* max_message_bytes, {size - 1}"
    ):
        await AnswerEncoder(size - 1, PIECES).encode(_head(), [Output("0", array.copy())], streamed=streamed)
    given = array.copy()
    tracemalloc.start()
    with pytest.raises(MessageTooLarge):
        await AnswerEncoder(1 << 20, PIECES).encode(_head(), [Output("0", given)], streamed=streamed)
    # The strings of a piece are there while they are measured.
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


async def test_classes_over_the_limit_are_built_no_further_than_it() -> None:
    scores = np.arange(200_000, dtype=np.float64) * 1e300
    tracemalloc.start()
    with pytest.raises(MessageTooLarge, match="max_message_bytes, 10000000"):
        await AnswerEncoder(10_000_000, PIECES).encode(_head(), [Output("0", scores, 200_000, batched=False)])
    assert tracemalloc.get_traced_memory()[1] < 40_000_000
    tracemalloc.stop()


async def test_classes_of_all_outputs_are_counted_together() -> None:
    scores: Any = np.zeros((1000, 1000), np.float32)
    encode = AnswerEncoder(1 << 20, PIECES).encode
    with pytest.raises(InvalidInput, match="1000001 classes in total, more than 1000000"):
        await encode(_head(), [Output("a", scores, 1000), Output("b", scores[:1], 1)])


@pytest.mark.parametrize(
    "output",
    [
        Output("0", np.zeros(1 << 18, np.float32)),
        Output("0", np.full(1 << 12, "x", object)),
        Output("0", np.zeros((1, 1 << 17), np.float32), 1),
    ],
    ids=["numbers", "strings", "classes"],
)
async def test_large_answers_are_made_beside_the_loop(output: Output) -> None:
    """Others have their turn meanwhile."""
    encoding = asyncio.ensure_future(AnswerEncoder(1 << 24, PIECES).encode(_head(), [output]))
    await asyncio.sleep(0)
    assert not encoding.done()
    answer = pb.ModelInferResponse.FromString(await encoding)
    assert [each.name for each in answer.outputs] == ["0"]
