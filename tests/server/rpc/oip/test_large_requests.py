"""Large requests of the tensor protocol are read as protobuf reads small ones; what is odd is refused."""

import struct
import time

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_server.errors import InvalidInput
from resonnx_server.protocol.oip import contents
from resonnx_server.protocol.oip.describe import DTYPES
from resonnx_server.protocol.oip.request import InferRequest
from resonnx_server.protocol.pieces import at_once
from resonnx_server.rpc import messages as reading
from resonnx_server.rpc.messages import read_request
from resonnx_server.runtime import wire

FIELDS = {
    "BOOL": ("bool_contents", st.booleans()),
    "INT8": ("int_contents", st.integers(-(2**7), 2**7 - 1)),
    "INT32": ("int_contents", st.integers(-(2**31), 2**31 - 1)),
    "INT64": ("int64_contents", st.integers(-(2**63), 2**63 - 1)),
    "UINT8": ("uint_contents", st.integers(0, 2**8 - 1)),
    "UINT32": ("uint_contents", st.integers(0, 2**32 - 1)),
    "UINT64": ("uint64_contents", st.integers(0, 2**64 - 1)),
    "FP32": ("fp32_contents", st.floats(width=32)),
    "FP64": ("fp64_contents", st.floats()),
    "BYTES": ("bytes_contents", st.binary(max_size=9)),
}


@st.composite
def messages(draw: st.DrawFn) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=draw(st.text(max_size=5)), id=draw(st.text(max_size=5)))
    for name in draw(st.lists(st.text(max_size=9), max_size=3)):
        request.parameters[name].int64_param = draw(st.integers(-9, 9))
        request.outputs.add(name=name).parameters[name].string_param = name
    raw = draw(st.booleans())
    for _ in range(draw(st.integers(0, 4))):
        datatype = draw(st.sampled_from(sorted(FIELDS)))
        field, values = FIELDS[datatype]
        given = draw(st.lists(values, max_size=30))
        tensor = request.inputs.add(name=draw(st.text(max_size=9)), datatype=datatype, shape=[len(given)])
        if raw:
            request.raw_input_contents.append(bytes(draw(st.integers(0, 50))))
        else:
            getattr(tensor.contents, field).extend(given)
    return request


def _tensors(request: InferRequest) -> list[np.ndarray]:
    return [
        at_once(contents.from_contents(request.typed.get(i), tuple(tensor.shape), DTYPES[tensor.datatype], tensor))
        for i, tensor in enumerate(request.message.inputs)
    ]


@given(messages())
def test_what_is_cut_out_is_what_protobuf_reads(message: pb.ModelInferRequest) -> None:
    serialized = message.SerializeToString()
    whole = read_request(serialized)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "WHOLE_BYTES", 0)
        patch.setattr(reading, "_COUNTED_BYTES", 0)
        patch.setattr(contents, "_PIECE_BYTES", 4)
        patch.setattr(contents, "_PIECE_ELEMENTS", 3)
        patch.setattr(contents, "_COPIED_BYTES", 5)
        cut = read_request(serialized)
        assert (cut.size, [bytes(raw) for raw in cut.raw]) == (whole.size, [*whole.raw])
        for i, tensor in enumerate(message.inputs):
            assert tensor.HasField("contents") == (i in cut.typed)
        if not whole.raw:
            for one, other, tensor in zip(_tensors(whole), _tensors(cut), message.inputs, strict=True):
                values = [*getattr(tensor.contents, FIELDS[tensor.datatype][0])]
                expected = np.array(values, object) if one.dtype.hasobject else np.array(values, one.dtype)
                np.testing.assert_array_equal(one, expected)
                np.testing.assert_array_equal(other, expected)
                assert other.flags.aligned
    rest = pb.ModelInferRequest()
    rest.CopyFrom(message)
    del rest.raw_input_contents[:]
    for tensor in rest.inputs:
        tensor.ClearField("contents")
    assert cut.message == rest or not serialized


@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=9), max_size=5))
def test_contents_in_parts_and_not_packed_are_joined(parts: list[list[int]]) -> None:
    """As other writers may have them."""
    message = pb.ModelInferRequest(inputs=[{"datatype": "INT32", "shape": [sum(map(len, parts))]}]).inputs[0]
    serialized = bytearray(message.SerializeToString())
    for number, part in enumerate(parts):
        one = pb.InferTensorContents(int_contents=part).SerializeToString()
        if number % 2:
            one = b"".join(b"\x10" + _varint(value % 2**64) for value in part)
        serialized += wire.opening(5, len(one)) + one
    request = wire.opening(5, len(serialized)) + serialized
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "WHOLE_BYTES", 0)
        patch.setattr(reading, "_COUNTED_BYTES", 0)
        (array,) = _tensors(read_request(bytes(request)))
    assert array.tolist() == [value for part in parts for value in part]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@given(st.binary(max_size=200))
def test_what_is_no_message_is_told(content: bytes) -> None:
    """As protobuf does; but groups, which nobody sends, are not skipped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "WHOLE_BYTES", 0)
        try:
            request = read_request(content)
        except DecodeError:
            return
    pb.ModelInferRequest.FromString(content)
    assert request.size == len(content)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (b"\x2a\x00" * 100_000, "more than 5000 fields"),
        (b"\x78\x01" * 100_000, "more than 5000 fields"),
        (wire.opening(5, 200_000) + b"\x22\x00" * 100_000, "more than 5000 fields"),
        (wire.opening(6, 200_000) + b"\x12\x00" * 100_000, "more than 5000 fields"),
        (wire.opening(1, 2_000_000) + b"a" * 2_000_000, "2000004 bytes beside contents, more than 1048576"),
    ],
    ids=["inputs", "unknown", "parameters of an input", "parameters of an output", "a name"],
)
def test_what_stands_beside_contents_is_bounded(message: bytes, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        read_request(message)


def test_the_bounds_themselves_are_allowed() -> None:
    opening = wire.opening(1, (1 << 20) - 4)
    name = opening + b"a" * ((1 << 20) - len(opening))
    assert len(read_request(name).message.model_name) == (1 << 20) - len(opening)
    name_and_inputs = wire.opening(1, 100_000) + b"a" * 100_000 + b"\x2a\x00" * 4999
    assert len(read_request(name_and_inputs).message.inputs) == 4999
    with pytest.raises(InvalidInput, match="more than 5000 fields"):
        read_request(name_and_inputs + b"\x2a\x00")
    with pytest.raises(InvalidInput, match="1048577 bytes beside contents, more than 1048576"):
        read_request(wire.opening(1, (1 << 20) - 3) + name[len(opening) :] + b"a")


@pytest.mark.parametrize("content", [b"\xff" * 11, b"\x80", b"\x10", b"\x12\x05\x01", b"\x13", b"\x12\x01\x80"])
def test_typed_contents_that_do_not_parse(content: bytes) -> None:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="INT32", shape=[1])
    with pytest.raises(InvalidInput, match=r"inputs\['x'\].contents.int_contents: does not parse"):
        at_once(contents.from_contents(memoryview(content), (1,), np.dtype("<i4"), tensor))


def test_a_number_without_end_is_refused_without_looking_for_it() -> None:
    packed = np.full(1 << 22, 0x80, np.uint8)
    start_s = time.thread_time()
    with pytest.raises(DecodeError, match="too long"):
        list(wire.pieces_of_varints(packed, 1 << 16))
    assert time.thread_time() - start_s < 0.5


def test_raw_numbers_are_shared_where_they_lie_well() -> None:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[100])
    values = np.arange(100, dtype=np.float32)
    for offset in range(8):
        message = bytes(offset) + values.tobytes()
        array = at_once(contents.from_raw(memoryview(message)[offset:], (100,), values.dtype, tensor, is_typed=False))
        np.testing.assert_array_equal(array, values)
        assert array.flags.aligned
        assert np.shares_memory(array, np.frombuffer(message, np.uint8)) == (
            np.frombuffer(message, np.uint8).ctypes.data % 4 == -offset % 4
        )


def test_elements_in_raw_bytes_of_a_view() -> None:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="BYTES", shape=[2])
    raw = memoryview(b"\0" + struct.pack("<I", 3) + b"a\0b" + struct.pack("<I", 0))[1:]
    array = at_once(contents.from_raw(raw, (2,), np.dtype(object), tensor, is_typed=False))
    assert array.tolist() == [b"a\0b", b""]
