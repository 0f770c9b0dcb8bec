"""Typed, raw, in shared memory, as JSON and as binary data after it: the same bits for every datatype."""

import base64
import json
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_server.memory.regions import FOLDER

from .....conftest import examples
from ....http.rest.asking_http import Answered, ask

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs /dev/shm")

SIZE = 1 << 16
# By datatype: ONNX's, the typed field, and NumPy's of the raw content.
TYPES: dict[str, tuple[int, str, str]] = {
    "BOOL": (TensorProto.BOOL, "bool_contents", "?"),
    "UINT8": (TensorProto.UINT8, "uint_contents", "u1"),
    "UINT16": (TensorProto.UINT16, "uint_contents", "<u2"),
    "UINT32": (TensorProto.UINT32, "uint_contents", "<u4"),
    "UINT64": (TensorProto.UINT64, "uint64_contents", "<u8"),
    "INT8": (TensorProto.INT8, "int_contents", "i1"),
    "INT16": (TensorProto.INT16, "int_contents", "<i2"),
    "INT32": (TensorProto.INT32, "int_contents", "<i4"),
    "INT64": (TensorProto.INT64, "int64_contents", "<i8"),
    "FP16": (TensorProto.FLOAT16, "", "<u2"),
    "BF16": (TensorProto.BFLOAT16, "", "<u2"),
    "FP32": (TensorProto.FLOAT, "fp32_contents", "<f4"),
    "FP64": (TensorProto.DOUBLE, "fp64_contents", "<f8"),
    "BYTES": (TensorProto.STRING, "bytes_contents", "O"),
}


class Server:
    """A stub of a server whose model gives back what it gets, its HTTP port, and a registered segment."""

    def __init__(self, stub: Any, http: str, segment: Path) -> None:
        self.stub, self.http, self.segment = stub, http, segment


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One model with an input and an output of each datatype."""
    folder = tmp_path_factory.mktemp("same")
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Identity", [f"x_{name}"], [f"y_{name}"]) for name in TYPES]
    inputs, outputs = (
        [value(f"{side}_{name}", kind, ["n", "m"]) for name, (kind, _, _) in TYPES.items()] for side in "xy"
    )
    graph = helper.make_graph(nodes, "same", inputs, outputs)
    path = folder / "models/same/1/model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    segment = FOLDER / f"resonnx-test-{uuid.uuid4().hex}"
    segment.write_bytes(bytes(2 * SIZE))
    try:
        with (
            start_server(folder / "models", "--admin-port", "0", "--system-shared-memory-bytes", str(SIZE * 2)) as run,
            grpc.insecure_channel(run.admin) as channel,
            triton.InferenceServerClient(run.admin) as client,
        ):
            client.register_system_shared_memory("r", segment.name, 2 * SIZE)
            yield Server(grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel), run.http, segment)
    finally:
        segment.unlink()


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, tuple[tuple[int, int], list[Any]]]:
    """Shapes and values of all inputs; of FP16 and BF16, bits of numbers."""
    values = {
        "?": st.booleans(),
        "<f4": st.floats(width=32),
        "<f8": st.floats(),
        "O": st.binary(max_size=9),
    }
    drawn = {}
    for name, (_, _, dtype) in TYPES.items():
        limits = None if dtype in values else np.iinfo(dtype)
        shape = draw(st.tuples(st.integers(1, 3), st.integers(0, 4)))
        each = values[dtype] if limits is None else st.integers(int(limits.min), int(limits.max))
        count = shape[0] * shape[1]
        drawn[name] = shape, draw(st.lists(each, min_size=count, max_size=count))
    return drawn


def _raw(name: str, values: list[Any]) -> bytes:
    if name == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    return np.array(values, TYPES[name][2]).tobytes()


def _request(given: dict[str, tuple[tuple[int, int], list[Any]]]) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="same")
    for name, (shape, _) in given.items():
        request.inputs.add(name=f"x_{name}", datatype=name, shape=shape)
        request.outputs.add(name=f"y_{name}")
    return request


def _answer(response: pb.ModelInferResponse) -> dict[str, tuple[str, list[int], bytes]]:
    return {
        output.name: (output.datatype, list(output.shape), raw)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


@examples(30)
@given(tensors(), st.randoms(use_true_random=False))
def test_all_ways_give_the_same_bits(server: Server, given: dict[str, Any], chosen: Any) -> None:
    expected = {f"y_{name}": (name, list(shape), _raw(name, values)) for name, (shape, values) in given.items()}
    raw = _request(given)
    raw.raw_input_contents.extend(_raw(name, values) for name, (_, values) in given.items())
    assert _answer(server.stub.ModelInfer(raw, timeout=20)) == expected
    # Some inputs and outputs in shared memory, in any order of both, the others raw.
    mixed, content, places = _request(given), bytearray(2 * SIZE), {}
    at = 0
    for tensor, output in zip(mixed.inputs, mixed.outputs, strict=True):
        name = tensor.datatype
        value = _raw(name, given[name][1])
        if chosen.random() < 0.5:
            _place(tensor, at, len(value))
            content[at : at + len(value)] = value
            at += len(value) + chosen.randrange(9)
        else:
            mixed.raw_input_contents.append(value)
        if chosen.random() < 0.5:
            start = SIZE + sum(size for _, size in places.values())
            places[output.name] = start, len(value)
            _place(output, start, len(value))
    server.segment.write_bytes(content)
    answer = _answer(server.stub.ModelInfer(mixed, timeout=20))
    written = server.segment.read_bytes()
    for name, (start, size) in places.items():
        datatype, shape, inline = answer[name]
        assert inline == b""
        answer[name] = datatype, shape, written[start : start + size]
    assert answer == expected
    # Typed, but for the datatypes that have no typed contents: as a whole, a request is typed or raw.
    typed = _request(given)
    at = 0
    for tensor in typed.inputs:
        name = tensor.datatype
        _, field, _ = TYPES[name]
        if field:
            getattr(tensor.contents, field).extend(given[name][1])
        else:
            value = _raw(name, given[name][1])
            content[at : at + len(value)] = value
            _place(tensor, at, len(value))
            at += len(value)
    server.segment.write_bytes(content)
    assert _answer(server.stub.ModelInfer(typed, timeout=20)) == expected
    # Of NaN, JSON keeps no bits.
    numbers = {name for name, (_, values) in given.items() if not _has_nan(name, values)}
    some = {name for name in numbers if chosen.random() < 0.5}
    for in_json, out_json in ((numbers, numbers), (set[str](), set[str]()), (some, numbers - some)):
        assert _by_rest(server.http, given, in_json, out_json) == expected


def _has_nan(name: str, values: list[Any]) -> bool:
    return name != "BYTES" and bool(np.isnan(np.array(_written(name, values), float)).any())


def _written(name: str, values: list[Any]) -> list[Any]:
    """Return the values of an input as JSON has them."""
    if name == "BYTES":
        return [base64.b64encode(value).decode() for value in values]
    if name == "FP16":
        return np.array(values, "<u2").view("<f2").tolist()
    if name == "BF16":
        return np.array(values, "<u2").view(ml_dtypes.bfloat16).astype(float).tolist()
    return values


def _by_rest(
    address: str, given: dict[str, Any], in_json: set[str], out_json: set[str]
) -> dict[str, tuple[str, list[int], bytes]]:
    """Return the answer to a request whose inputs and outputs of some datatypes are JSON, the others binary data."""
    inputs, content = [], b""
    for name, (shape, values) in given.items():
        tensor: dict[str, Any] = {"name": f"x_{name}", "datatype": name, "shape": shape}
        if name in in_json:
            # Without what strict JSON lacks.
            tensor["data"] = json.loads(json.dumps(_written(name, values)), parse_constant=str)
            tensor["parameters"] = {"content_type": "base64"} if name == "BYTES" else {}
        else:
            raw = _raw(name, values)
            tensor["parameters"] = {"binary_data_size": len(raw)}
            content += raw
        inputs.append(tensor)
    outputs = [{"name": f"y_{name}", "parameters": {"binary_data": name not in out_json}} for name in given]
    head = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    size = {"Inference_Header_Content_Length": str(len(head))}
    return _read(ask(address, "/v2/models/same/infer", head + content, **size))


def _read(answered: Answered) -> dict[str, tuple[str, list[int], bytes]]:
    assert answered.status == 200, answered.body
    position = int(answered.headers.get("Inference-Header-Content-Length", len(answered.body)))
    found = {}
    for output in answered.json["outputs"]:
        name, size = output["datatype"], output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            raw = answered.body[position : position + size]
            position += size
        elif name == "BYTES":
            is_base64 = "content_type" in output.get("parameters", {})
            elements = [base64.b64decode(each) if is_base64 else each.encode() for each in output["data"]]
            raw = _raw(name, elements)
        elif name == "FP16":
            raw = np.array(output["data"], "<f2").tobytes()
        elif name == "BF16":
            raw = np.array(output["data"], float).astype(ml_dtypes.bfloat16).tobytes()
        else:
            raw = np.array(output["data"], TYPES[name][2]).tobytes()
        found[output["name"]] = name, output["shape"], raw
    assert position == len(answered.body)
    return found


def _place(tensor: Any, start: int, size: int) -> None:
    tensor.parameters["shared_memory_region"].string_param = "r"
    tensor.parameters["shared_memory_byte_size"].int64_param = size
    tensor.parameters["shared_memory_offset"].int64_param = start


@pytest.mark.parametrize("name", [name for name in TYPES if name != "BYTES"])
def test_classes_of_every_datatype_and_rank(server: Server, name: str) -> None:
    request = pb.ModelInferRequest(model_name="same")
    values = {"BOOL": [0, 1, 0, 1]}.get(name, [1, 3, 0, 2])
    if name in ("FP16", "BF16"):
        floats = np.array(values, np.float32)
        halves = floats.astype(np.float16) if name == "FP16" else (floats.view(np.uint32) >> 16).astype("<u2")
        raw = halves.tobytes()
    else:
        raw = _raw(name, values)
    for each in TYPES:
        request.inputs.add(name=f"x_{each}", datatype=each, shape=[2, 2] if each == name else [1, 0])
        request.raw_input_contents.append(raw if each == name else b"")
    request.outputs.add(name=f"y_{name}").parameters["classification"].int64_param = 2
    (answer,) = _answer(server.stub.ModelInfer(request, timeout=20)).values()
    # The model is not batched: all elements are classes.
    best = [b"1.000000:1", b"1.000000:3"] if name == "BOOL" else [b"3.000000:1", b"2.000000:3"]
    assert answer == ("BYTES", [2], _raw("BYTES", best))


def test_tritonclient_sends_and_reads_bfloat16(start_server, tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["wide", "wide"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["y"], to=TensorProto.BFLOAT16),
    ]
    x, y = (value(name, TensorProto.BFLOAT16, ["n", 3]) for name in "xy")
    path = tmp_path / "models/half/1/model.onnx"
    path.parent.mkdir(parents=True)
    graph = helper.make_graph(nodes, "half", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    with start_server(tmp_path / "models") as running, triton.InferenceServerClient(running.grpc) as client:
        metadata, config = client.get_model_metadata("half"), client.get_model_config("half").config
        assert [each.datatype for each in (*metadata.inputs, *metadata.outputs)] == ["BF16", "BF16"]
        assert config.max_batch_size == 16, "rows are found to be independent"
        given = triton.InferInput("x", [2, 3], "BF16")
        numbers = np.array([[1, -2, 3.5], [0, 1e30, np.inf]], ml_dtypes.bfloat16)
        given.set_data_from_numpy(numbers)
        doubled = client.infer("half", [given]).as_numpy("y")
        np.testing.assert_array_equal(doubled.astype(np.float32), 2 * numbers.astype(np.float32))
