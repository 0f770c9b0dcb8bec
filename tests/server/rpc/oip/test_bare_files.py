"""Bare ONNX files by an unchanged tritonclient: with rows of their own or not, of strings, of any datatype."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
import resonnx
import tritonclient.grpc as triton
from onnx import TensorProto, helper
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from .tensors import refused, tensor_of


@pytest.mark.parametrize(
    ("model", "tensor", "raw", "message"),
    [
        ("free", {"datatype": "UINT8", "shape": [2, 2]}, [b"123"], "3 bytes; UINT8 [2, 2] has 4"),
        ("free", {"datatype": "UINT8", "shape": [-1, 2]}, [b"12"], "size -1 is negative"),
        ("free", {"datatype": "UINT8", "shape": [1] * 65}, [b"1"], "65 dimensions, more than 8"),
        ("free", {"datatype": "UINT8", "shape": [2**62] * 60_000}, [b"1"], "60000 dimensions, more than 8"),
        ("free", {"datatype": "UINT8", "shape": [0, 2**63 - 1]}, [b""], "is over 2147483647 elements"),
        ("free", {"datatype": "UINT8", "shape": [2, 2**30 - 1]}, [b""], "0 bytes; UINT8"),
        ("free", {"datatype": "FANCY", "shape": [1, 1]}, [b"1"], "'FANCY' is not one of"),
        ("free", {"datatype": "INT8", "shape": [1, 1]}, [], "INT8; the model takes UINT8"),
        ("free", {"datatype": "UINT8", "shape": [1, 1]}, [b"1", b"2"], "2 entries for 1 inputs"),
        ("free", {"datatype": "UINT8", "shape": [1, 3], "contents": {"uint_contents": [1, 300]}}, [], "2 values"),
        ("free", {"datatype": "UINT8", "shape": [1, 2], "contents": {"uint_contents": [1, 300]}}, [], "within 0..255"),
        ("free", {"datatype": "UINT8", "shape": [1, 1], "contents": {"uint_contents": [1]}}, [b"1"], "must not be set"),
        ("half", {"datatype": "FP16", "shape": [1], "contents": {"fp32_contents": [1]}}, [], "no typed contents"),
        ("strings", {"datatype": "BYTES", "shape": [1] * 20_000}, [b"1"], "20000 dimensions, more than 8"),
        ("strings", {"datatype": "BYTES", "shape": [1]}, [b"\x09\x00\x00\x00abc"], "says 9 bytes, 3 are left"),
        ("strings", {"datatype": "BYTES", "shape": [2]}, [b"\x04\x00\x00\x00abcd"], "element 1 of 2 is missing"),
        ("strings", {"datatype": "BYTES", "shape": [2**30]}, [b"\x00\x00\x00\x00"], "cannot hold"),
        ("strings", {"datatype": "BYTES", "shape": [1]}, [b"\x01\x00\x00\x00abc"], "2 bytes are left"),
    ],
)
def test_malformed_tensors(bare_server, model: str, tensor: dict, raw: list[bytes], message: str) -> None:
    request = pb.ModelInferRequest(model_name=model, inputs=[{"name": "x", **tensor}], raw_input_contents=raw)
    with grpc.insecure_channel(bare_server.grpc) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(request, timeout=10)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in refused.value.details()


def _graph(path: Path, nodes: list, inputs: list, outputs: list, constants: tuple = ()) -> None:
    path.parent.mkdir(parents=True)
    graph = helper.make_graph(nodes, "bare", inputs, outputs, list(constants))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


@pytest.fixture(scope="module")
def bare_server(start_server, tmp_path_factory) -> Iterator[Any]:
    """Bare files: with independent rows, with mixed rows, without a batch axis, of strings, of other datatypes."""
    repository = tmp_path_factory.mktemp("bare")
    two = helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0])
    vector = helper.make_tensor_value_info
    rows = [vector("x", TensorProto.FLOAT, ["n", 4])]
    out = [vector("y", TensorProto.FLOAT, ["n", 4])]
    _graph(repository / "double/1/model.onnx", [helper.make_node("Mul", ["x", "two"], ["y"])], rows, out, (two,))
    softmax = helper.make_node("Softmax", ["x"], ["y"], axis=0)
    _graph(repository / "mixes_rows/3/model.onnx", [softmax], rows, out)
    fixed = [vector("x", TensorProto.FLOAT, [2, 4])]
    _graph(
        repository / "fixed/1/model.onnx",
        [helper.make_node("Mul", ["x", "two"], ["y"])],
        fixed,
        [vector("y", TensorProto.FLOAT, [2, 4])],
        (two,),
    )
    _graph(
        repository / "baked/1/model.onnx",
        [helper.make_node("Mul", ["x", "two"], ["z"]), helper.make_node("Expand", ["z", "shape"], ["y"])],
        fixed,
        [vector("y", TensorProto.FLOAT, [2, 4])],
        (two, helper.make_tensor("shape", TensorProto.INT64, [2], [2, 4])),
    )
    texts = [vector("x", TensorProto.STRING, ["n"])]
    _graph(
        repository / "strings/1/model.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        texts,
        [vector("y", TensorProto.STRING, ["n"])],
    )
    for name, kind, shape in (("free", TensorProto.UINT8, ["n", "m"]), ("half", TensorProto.FLOAT16, [1])):
        copied = [helper.make_node("Identity", ["x"], ["y"])]
        _graph(repository / name / "1/model.onnx", copied, [vector("x", kind, shape)], [vector("y", kind, shape)])
    with start_server(repository) as server:
        yield server


@pytest.fixture(scope="module")
def bare_client(bare_server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(bare_server.grpc) as client:
        yield client


def test_bare_file(bare_server, bare_client) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(bare_client.infer("double", [tensor_of(x, "FP32", "x")]).as_numpy("y"), x * 2)
    assert bare_client.get_model_config("double").config.max_batch_size == 16
    parameters = bare_client.get_model_config("double").config.parameters
    assert [parameters[name].string_value for name in ("verified", "verified_against")] == ["false", "none"]
    with resonnx.Client(bare_server.grpc) as client:
        info = client.model("double")
    assert (info.verified_against, info.assumptions) == ("", ())
    assert info.inputs == (resonnx.TensorInfo("x", "FP32", (-1, 4)),)
    assert info.outputs == (resonnx.TensorInfo("y", "FP32", (-1, 4)),)
    assert list(bare_client.get_model_metadata("double").inputs[0].shape) == [-1, 4]
    refused(lambda: bare_client.infer("double", [tensor_of(x[:, :3], "FP32", "x")]), "INVALID_ARGUMENT", "[3, 3]")
    refused(
        lambda: bare_client.infer("double", [tensor_of(x.astype(np.float64), "FP64", "x")]), "INVALID_ARGUMENT", "FP64"
    )


def test_bare_file_whose_rows_depend_on_each_other_is_not_batched(bare_client) -> None:
    assert bare_client.get_model_config("mixes_rows").config.max_batch_size == 0
    x = np.array([[0, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(bare_client.infer("mixes_rows", [tensor_of(x, "FP32", "x")]).as_numpy("y"), x + 0.5)


def test_bare_file_of_a_fixed_size_with_independent_rows_is_batched(bare_client) -> None:
    config = bare_client.get_model_config("fixed").config
    assert (config.max_batch_size, list(config.input[0].dims)) == (16, [4])
    for rows in (1, 2, 5):
        x = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
        np.testing.assert_array_equal(bare_client.infer("fixed", [tensor_of(x, "FP32", "x")]).as_numpy("y"), x * 2)


def test_bare_file_without_batch_axis(bare_client) -> None:
    config = bare_client.get_model_config("baked").config
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [2, 4])
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(bare_client.infer("baked", [tensor_of(x, "FP32", "x")]).as_numpy("y"), x * 2)


def test_bare_file_of_strings(bare_client) -> None:
    x = np.array([b"hello", "zwölf".encode()], object)
    answer = bare_client.infer("strings", [tensor_of(x, "BYTES", "x")]).as_numpy("y")
    assert answer.tolist() == [b"hello", "zwölf".encode()]


@pytest.mark.parametrize("element", [b"\xff\xfe", b"\x89PNG\r\n\x1a\n\0\0", b"\0", b"", "zwölf".encode("latin-1")])
def test_bytes_that_are_no_text_pass_through_a_bare_file(bare_server, bare_client, element: bytes) -> None:
    x = np.array([b"text", element, element * 3], object)
    assert bare_client.infer("strings", [tensor_of(x, "BYTES", "x")]).as_numpy("y").tolist() == x.tolist()
    typed = pb.ModelInferRequest(model_name="strings")
    typed.inputs.add(name="x", datatype="BYTES", shape=[1]).contents.bytes_contents.append(element)
    with grpc.insecure_channel(bare_server.grpc) as channel:
        answer = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(typed, timeout=20)
    assert answer.raw_output_contents[0] == len(element).to_bytes(4, "little") + element


def test_more_strings_than_are_read_at_once(bare_client) -> None:
    x = np.array([str(number).encode() for number in range(70_000)], object)
    np.testing.assert_array_equal(bare_client.infer("strings", [tensor_of(x, "BYTES", "x")]).as_numpy("y"), x)
