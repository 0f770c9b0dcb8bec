"""What a tensor request says of itself is held against the model before its elements are read, and how they are."""

import struct
import threading
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_server.errors import InvalidInput, MemorySpent
from resonnx_server.inference.registry import Model
from resonnx_server.inference.tasks import CLASSIFY, TENSORS
from resonnx_server.protocol.oip import contents
from resonnx_server.protocol.oip.describe import DTYPES
from resonnx_server.protocol.oip.inputs import read_inputs
from resonnx_server.protocol.pieces import Pieces
from resonnx_server.rpc.messages import read_request
from resonnx_server.runtime.session import TensorSpec

# Elements that break off: whoever reads them says so.
BROKEN = b"\x09\x00\x00\x00"


def _model(*inputs: TensorSpec, bare: bool = True, max_batch_size: int = 4) -> Any:
    model = Mock(Model, inputs=inputs, optional_inputs=(), max_batch_size=max_batch_size, max_queue_size=8)
    model.manifest = None if bare else Mock()
    model.task = TENSORS if bare else CLASSIFY
    return model


def _spec(name: str, dtype: Any, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), shape)


def _request(*inputs: dict[str, Any], raw: list[bytes] | None = None) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(inputs=inputs, raw_input_contents=raw or [])


async def _read(request: pb.ModelInferRequest, model: Any) -> dict[str, np.ndarray]:
    return await read_inputs(read_request(request.SerializeToString()), model, PIECES)


PIECES = Pieces()
PICTURES = _model(_spec("image", "u1", "N", 2, 2, 3), bare=False)
TEXTS = _model(_spec("a", object, "n", 2), _spec("b", "f4", "n"))
TYPED = {"uint_contents": [300] * 12}


@pytest.mark.parametrize(
    ("model", "inputs", "raw", "message"),
    [
        (PICTURES, [{"name": "image", "datatype": "BYTES", "shape": [9]}], [BROKEN * 9], "9 rows, more than 8"),
        (PICTURES, [{"name": "image", "datatype": "BYTES", "shape": [1, 2]}], [BROKEN], "BYTES must be"),
        (PICTURES, [{"name": "image", "datatype": "BYTES", "shape": []}], [BROKEN], "BYTES must be"),
        (PICTURES, [{"name": "image", "datatype": "BYTES", "shape": [-1]}], [BROKEN], "BYTES must be"),
        (PICTURES, [{"name": "image", "datatype": "UINT8", "shape": [9, 2, 2, 3]}], [b""], "9 rows, more than 8"),
        (PICTURES, [{"name": "image", "datatype": "UINT8", "shape": [12], "contents": TYPED}], [], "12 rows"),
        (PICTURES, [{"name": "image", "datatype": "UINT8", "shape": [3, 2, 2], "contents": TYPED}], [], "[N, 2, 2, 3]"),
        (PICTURES, [{"name": "image", "datatype": "UINT32", "shape": [1, 2, 2, 3]}], [b""], "UINT8 pixels or BYTES"),
        (PICTURES, [{"name": "image", "datatype": "BYTES", "shape": [1]}] * 2, [BROKEN] * 2, "given twice"),
        (PICTURES, [{"name": "image", "datatype": "BYTES", "shape": [1]}, {"name": "x"}], [BROKEN] * 2, "'x' is not"),
        (PICTURES, [{"name": str(number)} for number in range(9)], [], "'0' is not one of ['encoded_image', 'image']"),
        (PICTURES, [], [], "none is given; the model takes one of ['encoded_image', 'image']"),
        (
            PICTURES,
            [{"name": name, "datatype": "BYTES", "shape": [1]} for name in ("image", "encoded_image", "image")],
            [BROKEN] * 3,
            "given twice",
        ),
        (TEXTS, [{"name": "a", "datatype": "BYTES", "shape": [1, 2]}], [BROKEN], "'b' is missing"),
        (TEXTS, [{"name": "a", "datatype": "BYTES", "shape": [9, 2]}, {"name": "b"}], [BROKEN, b""], "9 rows"),
        (TEXTS, [{"name": "a", "datatype": "BYTES", "shape": [1, 3]}, {"name": "b"}], [BROKEN, b""], "takes [-1, 2]"),
        (
            TEXTS,
            [{"name": "a", "datatype": "BYTES", "shape": [1, 2]}, {"name": "b", "datatype": "FP64", "shape": [1]}],
            [BROKEN, b""],
            "FP64; the model takes FP32",
        ),
    ],
)
async def test_what_does_not_fit_is_refused_before_elements_are_read(
    model: Any, inputs: list[dict[str, Any]], raw: list[bytes], message: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await _read(_request(*inputs, raw=raw), model)
    assert message in refused.value.message


async def test_as_many_rows_as_the_queue_holds_are_taken() -> None:
    pixels = np.arange(8 * 12, dtype=np.uint8).reshape(8, 2, 2, 3)
    image = {"name": "image", "datatype": "UINT8", "shape": pixels.shape}
    found = await _read(_request(image, raw=[pixels.tobytes()]), PICTURES)
    np.testing.assert_array_equal(found["image"], pixels)
    numbers = np.arange(8, dtype=np.float32)
    given = {"name": "b", "datatype": "FP32", "shape": [8]}
    found = await _read(_request(given, raw=[numbers.tobytes()]), _model(_spec("b", "f4", "n")))
    np.testing.assert_array_equal(found["b"], numbers)


async def test_no_empty_tensor_has_sizes_that_cannot_be_multiplied() -> None:
    request = _request({"name": "x", "datatype": "FP32", "shape": [0, 2**31 - 1, 2**31 - 1]}, raw=[b""])
    with pytest.raises(InvalidInput, match="is over 2147483647 elements"):
        await _read(request, _model(_spec("x", "f4", "n", "m", "k")))


@pytest.mark.parametrize("given", [("x",), ("x", "b"), ("c", "x", "a"), ("x", "a", "b", "c")])
async def test_any_of_the_optional_inputs_may_be_given(given: tuple[str, ...]) -> None:
    model = _model(_spec("x", "f4", "n"))
    model.optional_inputs = tuple(_spec(name, "f4", 1) for name in "abc")
    tensors = [{"name": name, "datatype": "FP32", "shape": [1]} for name in given]
    arrays = await _read(_request(*tensors, raw=[np.float32(number).tobytes() for number in range(len(given))]), model)
    assert {name: array.tolist() for name, array in arrays.items()} == {
        name: [float(number)] for number, name in enumerate(given)
    }


async def test_inputs_come_in_any_order() -> None:
    request = _request(
        {"name": "b", "datatype": "FP32", "shape": [1]},
        {"name": "a", "datatype": "BYTES", "shape": [1, 2]},
        raw=[np.float32(0.5).tobytes(), b"\x02\x00\x00\x00\xc3\xb6\x00\x00\x00\x00"],
    )
    arrays = await _read(request, TEXTS)
    assert arrays["b"].tolist() == [0.5]
    assert arrays["a"].tolist() == [["ö".encode(), b""]]


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"])
@pytest.mark.parametrize("rows", [0, 3])
async def test_typed_integers_are_what_raw_bytes_are(datatype: str, rows: int) -> None:
    dtype = DTYPES[datatype]
    limits = (0, 1) if datatype == "BOOL" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    await _same_typed_and_raw(datatype, np.array([limits] * rows, dtype).reshape(rows, 2))


@pytest.mark.parametrize(("datatype", "dtype"), [("FP32", "f4"), ("FP64", "f8")])
async def test_typed_floats_are_what_raw_bytes_are(datatype: str, dtype: str) -> None:
    values = np.array([[0.1, -np.inf], [np.nan, np.finfo(dtype).tiny], [-0.0, np.finfo(dtype).max]], dtype)
    await _same_typed_and_raw(datatype, values)
    await _same_typed_and_raw(datatype, np.zeros((0, 2), dtype))


async def _same_typed_and_raw(datatype: str, values: np.ndarray) -> None:
    model = _model(_spec("x", values.dtype, "n", 2))
    tensor = {"name": "x", "datatype": datatype, "shape": values.shape}
    raw = await _read(_request(tensor, raw=[values.tobytes()]), model)
    request = _request(tensor)
    field = {"BOOL": "bool", "FP32": "fp32", "FP64": "fp64", "INT64": "int64", "UINT64": "uint64"}.get(
        datatype, "uint" if datatype.startswith("U") else "int"
    )
    getattr(request.inputs[0].contents, f"{field}_contents").extend(values.ravel().tolist())
    typed = await _read(request, model)
    for array in (raw["x"], typed["x"]):
        assert (array.dtype, array.shape, array.tobytes()) == (values.dtype, values.shape, values.tobytes())
        assert array.flags.aligned


@pytest.mark.parametrize(
    ("datatype", "tag", "values"),
    [
        ("FP32", b"\x35", [struct.pack("<f", value) for value in (0.5, -2.0)]),
        ("FP64", b"\x39", [struct.pack("<d", value) for value in (0.5, -2.0)]),
        ("UINT32", b"\x20", [b"\x05", b"\xac\x02"]),
    ],
)
async def test_typed_numbers_need_not_be_packed(datatype: str, tag: bytes, values: list[bytes]) -> None:
    """Protobuf lets writers choose; fields that are unknown beside them are passed over."""
    unknown = b"\xfd\x01" + bytes(4)
    contents = unknown + b"".join(tag + value for value in values)
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype=datatype, shape=[2]).SerializeToString()
    tensor += b"\x2a" + bytes([len(contents)]) + contents
    request = read_request(b"\x2a" + bytes([len(tensor)]) + tensor)
    arrays = await read_inputs(request, _model(_spec("x", DTYPES[datatype], "n")), PIECES)
    assert arrays["x"].tolist() == ([5, 300] if datatype == "UINT32" else [0.5, -2.0])


@pytest.mark.parametrize(
    ("datatype", "contents", "raw", "held"),
    [
        ("BYTES", {}, [bytes(4) * 2000], 2000 * 64),
        ("BYTES", {"bytes_contents": [b""] * 2000}, [], 2000 * 64),
        ("INT64", {"int64_contents": [1] * 2000}, [], 2000 * 8),
        ("INT64", {}, [bytes(8) * 2000], None),
    ],
)
async def test_arrays_beside_the_message_are_charged_before_they_are_made(
    datatype: str, contents: dict[str, Any], raw: list[bytes], held: int | None
) -> None:
    tensor = {"name": "x", "datatype": datatype, "shape": [2000], "contents": contents or None}
    request = read_request(_request(tensor, raw=raw).SerializeToString())
    model = _model(_spec("x", DTYPES[datatype], "n"), max_batch_size=0)
    asked: list[int] = []
    await read_inputs(request, model, PIECES, asked.append)
    assert asked == ([] if held is None else [held])

    def refuse(nbytes: int) -> None:
        raise MemorySpent("spent", 100)

    if held is not None:
        with pytest.raises(MemorySpent):
            await read_inputs(request, model, PIECES, refuse)


@pytest.mark.parametrize("raw", [True, False])
async def test_strings_are_read_in_pieces(raw: bool) -> None:
    """Reading many at once would hold up all other requests."""
    count = 3 * contents._PIECE_ELEMENTS
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="BYTES", shape=[count])
    dtype = np.dtype(object)
    if raw:
        work = contents.from_raw(bytes(4 * count), (count,), dtype, tensor, is_typed=False)
    else:
        tensor.contents.bytes_contents.extend([b""] * count)
        work = contents.from_contents(None, (count,), dtype, tensor)
    assert sum(1 for _ in work) >= 3


async def test_unpacked_numbers_are_read_in_pieces() -> None:
    count = 3 * contents._PIECE_ELEMENTS
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[count])
    work = contents.from_contents(memoryview((b"\x35" + bytes(4)) * count), (count,), np.dtype("f4"), tensor)
    assert sum(1 for _ in work) >= 3


@pytest.mark.parametrize(("datatype", "value"), [("INT8", -129), ("INT16", 2**15), ("UINT16", 2**16)])
async def test_values_beyond_the_datatype(datatype: str, value: int) -> None:
    field = "uint_contents" if datatype[0] == "U" else "int_contents"
    # In the second part of those that are converted.
    values = [0] * (1 << 16) + [value]
    tensor = {"name": "x", "datatype": datatype, "shape": [len(values)], "contents": {field: values}}
    request = _request(tensor)
    model = _model(_spec("x", DTYPES[datatype], "n"), max_batch_size=0)
    with pytest.raises(InvalidInput, match="a value is not within"):
        await _read(request, model)


@pytest.mark.parametrize("count", [1 << 10, (1 << 10) + 1])
async def test_many_elements_are_read_beside_the_loop(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    readers = []

    def noted(*args: Any) -> Any:
        readers.append(threading.current_thread())
        return (yield from from_contents(*args))

    from_contents = contents.from_contents
    monkeypatch.setattr(contents, "from_contents", noted)
    values = np.arange(count, dtype=np.uint32)
    tensor = {"name": "x", "datatype": "UINT32", "shape": [count], "contents": {"uint_contents": values.tolist()}}
    arrays = await _read(_request(tensor), _model(_spec("x", "u4", "n"), max_batch_size=0))
    np.testing.assert_array_equal(arrays["x"], values)
    assert [reader is threading.main_thread() for reader in readers] == [count <= 1 << 10]
