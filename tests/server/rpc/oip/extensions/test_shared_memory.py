"""Shared memory by rpc: answers are those of raw requests, and hostile regions harm their own request only."""

import contextlib
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_server.memory.regions import FOLDER
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from .conftest import Extended

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs /dev/shm")

X = np.arange(6, dtype=np.float32).reshape(2, 3)
SIZE = 4096


@pytest.fixture
def segment() -> Iterator[Path]:
    path = FOLDER / f"resonnx-test-{uuid.uuid4().hex}"
    path.write_bytes(bytes(SIZE))
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def client(extended: Extended, segment: Path) -> Iterator[triton.InferenceServerClient]:
    extended.client.register_system_shared_memory("in", f"/{segment.name}", SIZE // 2)
    extended.client.register_system_shared_memory("out", segment.name, SIZE // 2, offset=SIZE // 2)
    yield extended.client
    extended.client.unregister_system_shared_memory()


def _refused(
    client: triton.InferenceServerClient, *arguments: Any, status: str = "INVALID_ARGUMENT", **options: Any
) -> str:
    with pytest.raises(InferenceServerException) as refused:
        client.infer(*arguments, **options)
    assert refused.value.status() == f"StatusCode.{status}"
    return str(refused.value.message())


def _input(size: int = X.nbytes, region: str = "in", offset: int = 0) -> triton.InferInput:
    given = triton.InferInput("x", X.shape, "FP32")
    given.set_shared_memory(region, size, offset=offset)
    return given


def _output(size: int = 1000, region: str = "out", offset: int = 0) -> triton.InferRequestedOutput:
    wanted = triton.InferRequestedOutput("y")
    wanted.set_shared_memory(region, size, offset=offset)
    return wanted


def _write(segment: Path, content: bytes, offset: int = 0) -> None:
    with segment.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def test_status(client, segment: Path) -> None:
    regions = client.get_system_shared_memory_status().regions
    assert {name: (r.name, r.key, r.offset, r.byte_size) for name, r in regions.items()} == {
        "in": ("in", f"/{segment.name}", 0, SIZE // 2),
        "out": ("out", segment.name, SIZE // 2, SIZE // 2),
    }
    assert list(client.get_system_shared_memory_status("in").regions) == ["in"]
    with pytest.raises(InferenceServerException) as missing:
        client.get_system_shared_memory_status("other")
    assert missing.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException) as again:
        client.register_system_shared_memory("in", segment.name, 1)
    assert again.value.status() == "StatusCode.ALREADY_EXISTS"
    client.unregister_system_shared_memory("in")
    client.unregister_system_shared_memory("in")
    assert list(client.get_system_shared_memory_status().regions) == ["out"]
    assert "system_shared_memory" in client.get_server_metadata().extensions


def test_inputs_and_outputs_in_shared_memory(client, segment: Path) -> None:
    _write(segment, X.tobytes(), 16)
    answer = client.infer("doubling", [_input(offset=16)], outputs=[_output(offset=8)])
    (output,) = answer.get_response().outputs
    assert list(answer.get_response().raw_output_contents) == [b""]
    assert (output.datatype, list(output.shape)) == ("FP32", [2, 3])
    assert {name: getattr(v, v.WhichOneof("parameter_choice")) for name, v in output.parameters.items()} == {
        "shared_memory_region": "out",
        "shared_memory_byte_size": X.nbytes,
        "shared_memory_offset": 8,
    }
    written = segment.read_bytes()[SIZE // 2 + 8 :][: X.nbytes]
    np.testing.assert_array_equal(np.frombuffer(written, np.float32).reshape(2, 3), 2 * X)
    # One of both alone.
    assert client.infer("doubling", [_input(offset=16)]).as_numpy("y").tolist() == (2 * X).tolist()


@pytest.mark.parametrize(
    ("given", "wanted", "message"),
    [
        ({"region": "other"}, {}, "inputs['x'].parameters: 'other' is not a region that this caller has registered"),
        ({"size": 20}, {}, "inputs['x']: 20 bytes; FP32 [2, 3] has 24"),
        ({"offset": SIZE // 2 - 8}, {}, "are not within region 'in'"),
        ({}, {"region": "other"}, "outputs['y'].parameters: 'other' is not a region"),
        ({}, {"size": 23}, "shared_memory_byte_size is 23, but the output has 24 bytes"),
        ({}, {"size": SIZE}, "are not within region 'out'"),
    ],
)
def test_what_does_not_fit_is_refused(client, given: dict, wanted: dict, message: str) -> None:
    status = "NOT_FOUND" if "other" in message else "INVALID_ARGUMENT"
    assert message in _refused(client, "doubling", [_input(**given)], outputs=[_output(**wanted)], status=status)


def test_an_output_that_does_not_fit_is_not_written_in_part(client, segment: Path) -> None:
    before = segment.read_bytes()
    _refused(client, "doubling", [_input()], outputs=[_output(size=20)])
    assert segment.read_bytes() == before


def test_a_shortened_segment_is_an_error_and_the_server_lives(client, segment: Path) -> None:
    os.truncate(segment, 8)
    assert "has become shorter" in _refused(client, "doubling", [_input()])
    given = triton.InferInput("x", X.shape, "FP32")
    given.set_data_from_numpy(X)
    assert "has become shorter" in _refused(client, "doubling", [given], outputs=[_output()])
    assert client.infer("doubling", [given]).as_numpy("y").tolist() == (2 * X).tolist()


def test_segments_that_are_cut_while_requests_run_end_nothing(client, extended, segment: Path) -> None:
    """Each request succeeds or is refused."""
    over = threading.Event()

    def cut() -> None:
        while not over.is_set():
            os.truncate(segment, 0)
            os.truncate(segment, SIZE)

    cutting = threading.Thread(target=cut)
    cutting.start()
    try:
        for _ in range(200):
            with contextlib.suppress(InferenceServerException):
                client.infer("doubling", [_input()], outputs=[_output()])
    finally:
        over.set()
        cutting.join()
    assert extended.server.process.poll() is None
    assert client.is_server_live()


def test_registration_may_end_while_requests_run(client, extended, segment: Path) -> None:
    """Requests that were admitted are answered, and others are refused."""
    outcomes: list[str] = []

    def ask() -> None:
        with triton.InferenceServerClient(extended.server.admin) as mine:
            for _ in range(50):
                try:
                    mine.infer("doubling", [_input()], outputs=[_output()])
                    outcomes.append("OK")
                except InferenceServerException as error:
                    outcomes.append(error.status())

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    for _ in range(50):
        client.unregister_system_shared_memory("in")
        client.register_system_shared_memory("in", segment.name, SIZE // 2)
    for thread in asking:
        thread.join()
    assert len(outcomes) == 100
    assert {*outcomes} <= {"OK", "StatusCode.NOT_FOUND"}


def test_the_raw_index_advances_for_inputs_outside_shared_memory_only(extended, client, segment: Path) -> None:
    _write(segment, X.tobytes())
    request = pb.ModelInferRequest(model_name="doubling")
    given = request.inputs.add(name="x", datatype="FP32", shape=X.shape)
    given.parameters["shared_memory_region"].string_param = "in"
    given.parameters["shared_memory_byte_size"].int64_param = X.nbytes
    with grpc.insecure_channel(extended.server.admin) as channel:
        infer = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        assert np.frombuffer(infer(request).raw_output_contents[0], np.float32).tolist() == (2 * X).ravel().tolist()
        request.raw_input_contents.append(X.tobytes())
        with pytest.raises(grpc.RpcError, match="1 entries for 0 inputs outside shared memory"):
            infer(request)
        del request.raw_input_contents[:]
        given.contents.fp32_contents.extend([0.0] * 6)
        with pytest.raises(grpc.RpcError, match=r"contents: must not be set beside shared_memory_region"):
            infer(request)
        given.ClearField("contents")
        del given.parameters["shared_memory_byte_size"]
        with pytest.raises(grpc.RpcError, match="shared_memory_byte_size is missing"):
            infer(request)
        given.parameters["shared_memory_byte_size"].string_param = "24"
        with pytest.raises(grpc.RpcError, match="must be an integer"):
            infer(request)


def test_classes_do_not_go_to_shared_memory(client) -> None:
    given = triton.InferInput("x", X.shape, "FP32")
    given.set_data_from_numpy(X)
    wanted = triton.InferRequestedOutput("y", class_count=1)
    wanted._output.parameters["shared_memory_region"].string_param = "out"
    wanted._output.parameters["shared_memory_byte_size"].int64_param = 100
    message = _refused(client, "doubling", [given], outputs=[wanted])
    assert "output can't set both 'shared_memory_region' and 'classification'" in message


def test_regions_of_one_address_serve_on_both_ports(client, extended) -> None:
    """Of the same address, it is the same caller: what is registered by the admin port is used by the main one."""
    with triton.InferenceServerClient(extended.server.grpc) as main:
        assert main.infer("doubling", [_input()]).as_numpy("y").shape == X.shape
        with pytest.raises(InferenceServerException) as refused:
            main.get_system_shared_memory_status()
    assert refused.value.status() == "StatusCode.PERMISSION_DENIED"


def test_cuda_shared_memory_is_not_offered(client) -> None:
    assert not client.get_cuda_shared_memory_status().regions
    client.unregister_cuda_shared_memory()
    with pytest.raises(InferenceServerException) as refused:
        client.register_cuda_shared_memory("gpu", b"", 0, 100)
    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"
    assert "cuda_shared_memory" not in client.get_server_metadata().extensions


def test_switched_off_unless_a_setting_says_so(demo_server) -> None:
    with triton.InferenceServerClient(demo_server.grpc) as main:
        given = triton.InferInput("image", [1], "BYTES")
        given.set_shared_memory("in", 10)
        assert "switched off" in _refused(main, "digits", [given])
        assert "system_shared_memory" not in main.get_server_metadata().extensions


def test_strings(extended, client, segment: Path) -> None:
    content = serialize_byte_tensor(np.array([b"not a picture", b""], object)).item()
    _write(segment, content)
    given = triton.InferInput("x", [2], "BYTES")
    given.set_shared_memory("in", len(content))
    assert "BYTES; the model takes FP32" in _refused(client, "doubling", [given])
