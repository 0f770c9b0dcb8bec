"""Requests of the tensor protocol that are refused: which field is wrong, and that nothing is left of them."""

import queue
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc
from tritonclient.utils import InferenceServerException

from .tensors import bytes_input, refused, size_of, tensor_of


@pytest.fixture(scope="module")
def client(demo_server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(demo_server.grpc) as client:
        yield client


@pytest.mark.parametrize("stream", [False, True])
def test_classes_of_what_has_none_are_refused_before_any_work(demo_server, samples: Path, stream: bool) -> None:
    """Not when the words are there: others' words come with them."""
    picture = next(samples.glob("*.png")).read_bytes()
    before = demo_server.metric("resonnx_caption_tokens_total", model="scenes")
    with triton.InferenceServerClient(demo_server.grpc) as client:
        answers: queue.Queue[tuple[object, InferenceServerException | None]] = queue.Queue()
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        asked = triton.InferRequestedOutput("caption", class_count=1)
        client.async_stream_infer(
            "scenes", [bytes_input([picture])], outputs=[asked], parameters={"stream": True} if stream else None
        )
        _, error = answers.get(timeout=20)
        assert error is not None
        assert "classification needs a numeric output, which 'caption' is not" in error.message()
        client.stop_stream()
    assert demo_server.metric("resonnx_caption_tokens_total", model="scenes") == before
    assert demo_server.metric("resonnx_request_errors_total", model="scenes", reason="INVALID_INPUT") >= 1


def test_pictures_that_fail_on_a_stream_leave_nothing_behind(demo_server) -> None:
    """Each is forgotten with its answer, not when garbage is collected, which is rare."""

    def resident_mb() -> float:
        return demo_server.metric("process_resident_memory_bytes") / 1e6

    def ask(client: triton.InferenceServerClient, times: int) -> None:
        answers: queue.Queue[tuple[object, InferenceServerException | None]] = queue.Queue()
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        for _ in range(times):
            client.async_stream_infer("digits", [bytes_input([bytes(8_000_000)])])
            assert answers.get(timeout=20)[1] is not None
        client.stop_stream()

    with triton.InferenceServerClient(demo_server.grpc) as client:
        ask(client, 10)
        before = resident_mb()
        ask(client, 50)
    assert resident_mb() - before < 100, "of 400 MB"


@pytest.mark.parametrize("version", ["2", "x", "99999999999999999999"])
def test_unknown_version(client, version: str) -> None:
    refused(lambda: client.infer("digits", [bytes_input([b"x"])], model_version=version), "NOT_FOUND", "version")


@pytest.mark.parametrize("name", ["unknown", "../digits", "digits/1", "", " digits", "a" * 256])
def test_unknown_model(client, name: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        client.infer(name, [bytes_input([b"x"])])
    assert refused.value.status() == "StatusCode.NOT_FOUND"
    assert len(refused.value.message()) < 200


def test_bad_inputs(client) -> None:
    height, width = size_of(client, "digits")
    good = np.zeros((1, height, width, 3), np.uint8)

    def infer(*inputs: triton.InferInput, **options: object):
        return lambda: client.infer("digits", list(inputs), **options)

    refused(infer(tensor_of(good.astype(np.float32), "FP32")), "INVALID_ARGUMENT", "inputs['image'].datatype", "FP32")
    refused(infer(tensor_of(good[:, :-1], "UINT8")), "INVALID_ARGUMENT", "inputs['image'].shape", f"{height - 1}")
    refused(infer(tensor_of(good[0], "UINT8")), "INVALID_ARGUMENT", "inputs['image'].shape")
    refused(infer(tensor_of(good[:0], "UINT8")), "INVALID_ARGUMENT", "N >= 1")
    refused(
        infer(tensor_of(good, "UINT8", "picture")),
        "INVALID_ARGUMENT",
        "'picture' is not one of ['encoded_image', 'image']",
    )
    refused(infer(tensor_of(good, "UINT8"), tensor_of(good, "UINT8", "more")), "INVALID_ARGUMENT", "'more'")
    refused(
        infer(bytes_input([b"broken"])), "INVALID_ARGUMENT", "inputs['image'][0]", "plain text that begins 'broken'"
    )
    unknown_output = [triton.InferRequestedOutput("scores")]
    refused(infer(tensor_of(good, "UINT8"), outputs=unknown_output), "INVALID_ARGUMENT", "'scores'")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"triton_secret": {"int64_param": 1}}, "'triton_secret' is reserved"),
        ({"timeout": {"int64_param": -5}}, "-5 is negative"),
        ({"timeout": {"string_param": "soon"}}, "must be an integer"),
        ({"priority": {"uint64_param": 9}}, "parameters['priority']: 9 is not within 0..8"),
        ({str(number): {"int64_param": 1} for number in range(1025)}, "parameters: 1025 are given, more than 1024"),
    ],
)
def test_bad_parameters(demo_server, parameters: dict, message: str) -> None:
    request = pb.ModelInferRequest(model_name="digits", parameters=parameters)
    with grpc.insecure_channel(demo_server.grpc) as channel, pytest.raises(grpc.RpcError) as refused:
        grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in refused.value.details()


def test_more_rows_than_may_ever_wait(client) -> None:
    height, width = size_of(client, "digits")
    pixels = np.zeros((1025, height, width, 3), np.uint8)
    refused(
        lambda: client.infer("digits", [tensor_of(pixels, "UINT8")]), "INVALID_ARGUMENT", "1025 rows, more than 1024"
    )


def test_calls_that_are_not_offered(client) -> None:
    refused(lambda: client.load_model("digits"), "PERMISSION_DENIED", "served on the admin port only")
    refused(client.get_trace_settings, "PERMISSION_DENIED")
