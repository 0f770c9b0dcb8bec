"""What a real server's refusals tell callers, on calls and streams of both protocols, and the settings that refuse."""

import queue
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from resonnx_proto.inference import grpc_service_pb2 as oip
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc

MANY = 8
"""Requests at once; `tight` has room for two until the oldest has waited for a second."""
PATIENT = """
[server]
max_message_bytes = 1_048_576
memory_budget_bytes = 16_777_216
[models.hoards]
max_batch_size = 6
max_queue_delay_us = 1_000_000
[models.tight]
max_batch_size = 4
max_queue_size = 2
max_queue_delay_us = 1_000_000
[models.gathers]
max_batch_size = 4
max_queue_delay_us = 1_000_000
"""
# Small batches, which take little time to measure.
TIMELY = """
[models.digits]
allow_timeout_override = true
max_batch_size = 4
[models.scenes]
allow_timeout_override = true
max_batch_size = 4
"""
HURRIED = """
[models.steered]
max_batch_size = 4
latency_objective_ms = 0.001
[models.shed]
max_batch_size = 4
latency_objective_ms = 0.001
shed_on_objective = true
[models.relaxed]
max_batch_size = 4
latency_objective_ms = 60_000
shed_on_objective = true
[models.captions]
max_batch_size = 4
latency_objective_ms = 0.001
shed_on_objective = true
"""


@pytest.fixture(scope="module")
def start(start_server, demo_repository: Path, tmp_path_factory: pytest.TempPathFactory):
    """Serve copies of the demo's models by a TOML file that names them."""

    def start(toml: str, provider: str = "cpu", **copies: str):
        folder = tmp_path_factory.mktemp("named")
        for name, model in copies.items():
            shutil.copytree(demo_repository / model, folder / "models" / name)
        (folder / "server.toml").write_text(toml)
        return start_server(folder / "models", "--config", str(folder / "server.toml"), "--provider", provider)

    return start


@pytest.fixture(scope="module")
def patient(start) -> Iterator[grpc.Channel]:
    with (
        start(PATIENT, tight="digits", gathers="digits", hoards="digits") as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        yield channel


@pytest.fixture(scope="module")
def timely(start) -> Iterator[Any]:
    """The demo's models, which honour the tensor protocol's `timeout`."""
    with start(TIMELY, digits="digits", scenes="scenes") as server:
        yield server


@pytest.fixture(scope="module")
def hurried(start) -> Iterator[grpc.Channel]:
    models = {"steered": "digits", "shed": "digits", "relaxed": "digits", "captions": "scenes"}
    with start(HURRIED, **models) as server, grpc.insecure_channel(server.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def picture(samples: Path, truth: dict[str, dict[str, str]]) -> bytes:
    return (samples / next(name for name, entry in truth.items() if entry["model"] == "digits")).read_bytes()


def _vision(channel: grpc.Channel) -> vision_pb2_grpc.VisionStub:
    return vision_pb2_grpc.VisionStub(channel)


def _request(model: str, picture: bytes, **fields: object) -> vision_pb2.ClassifyRequest:
    return vision_pb2.ClassifyRequest(model=model, image={"encoded": picture}, **fields)


def _infer_request(model: str, picture: bytes, id: str, **parameters: int) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(
        model_name=model, id=id, raw_input_contents=[len(picture).to_bytes(4, "little") + picture]
    )
    request.inputs.add(name="image", datatype="BYTES", shape=[1])
    for name, value in parameters.items():
        request.parameters[name].int64_param = value
    return request


def _told(error: grpc.RpcError, code: grpc.StatusCode = grpc.StatusCode.RESOURCE_EXHAUSTED) -> tuple[str, int]:
    """Return the reason and the pushback of a call that was refused."""
    assert error.code() is code
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(error).details[0].Unpack(info)
    trailers = dict(error.trailing_metadata())
    return info.reason, int(trailers["grpc-retry-pushback-ms"])


def _unreachable(call, request) -> tuple[str, int]:
    with pytest.raises(grpc.RpcError) as refused:
        call(request, timeout=30)
    return _told(refused.value, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_a_full_queue_says_when_to_come_back(patient: grpc.Channel, picture: bytes) -> None:
    calls = [_vision(patient).Classify.future(_request("tight", picture), timeout=60) for _ in range(MANY)]
    told = [_told(call) for call in calls if call.exception() is not None]
    assert 0 < len(told) < MANY
    for reason, pushback in told:
        assert reason == "QUEUE_FULL"
        assert 0 < pushback <= 2000


def test_a_full_queue_says_so_to_each_picture_of_a_stream(patient: grpc.Channel, picture: bytes) -> None:
    requests = [_request("tight", picture, id=str(i)) for i in range(MANY)]
    answers = list(_vision(patient).ClassifyStream(iter(requests), timeout=60))
    assert {answer.id for answer in answers} == {request.id for request in requests}
    errors = [answer.error for answer in answers if answer.HasField("error")]
    assert 0 < len(errors) < MANY
    for error in errors:
        assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        assert 0 < error.retry_after_ms <= 2000


def test_a_full_queue_says_so_to_each_request_of_a_tensor_stream(patient: grpc.Channel, picture: bytes) -> None:
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(patient)
    requests = [_infer_request("tight", picture, str(i)) for i in range(MANY)]
    answers = list(stub.ModelStreamInfer(iter(requests), timeout=60))
    assert {answer.infer_response.id for answer in answers} == {request.id for request in requests}
    refused = [answer for answer in answers if answer.error_message]
    assert 0 < len(refused) < MANY
    for answer in refused:
        parameters = answer.infer_response.parameters
        assert set(parameters) == {"reason", "request_id", "retry_after_ms", "triton_final_response"}
        assert "the queue holds" in answer.error_message
        assert parameters["reason"].string_param == "QUEUE_FULL"
        assert 0 < parameters["retry_after_ms"].int64_param <= 2000
        # A client that reads it in spite of the error finds an answer without outputs.
        assert triton.InferResult(answer.infer_response).as_numpy("probabilities") is None


def test_requests_in_flight_hold_no_more_memory_than_they_may(patient: grpc.Channel, picture: bytes) -> None:
    """Five of the largest messages, the share of one caller; what is over is refused, and room is given back."""
    vision = _vision(patient)
    for _ in range(2):
        # Bytes after a PNG file's end are ignored.
        request = _request("hoards", picture + bytes(1_000_000))
        calls = [vision.Classify.future(request, timeout=60) for _ in range(16)]
        told = [_told(call) for call in calls if call.exception() is not None]
        assert 0 < len(told) <= 11, "five have room"
        for reason, pushback in told:
            assert reason == "MEMORY_SPENT"
            assert 0 < pushback <= 2000


def test_a_deadline_that_even_an_idle_device_would_miss_says_not_to_come_back(timely, picture: bytes) -> None:
    with grpc.insecure_channel(timely.grpc) as channel:
        vision, tensors = _vision(channel), grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        caption = vision_pb2.CaptionRequest(model="scenes", image={"encoded": picture}, timeout_us=1)
        for call, request in (
            (vision.Classify, _request("digits", picture, timeout_us=1)),
            (vision.Caption, caption),
            (lambda request, timeout: list(vision.StreamCaption(request, timeout=timeout)), caption),
            (tensors.ModelInfer, _infer_request("digits", picture, "", timeout=1)),
        ):
            assert _unreachable(call, request) == ("DEADLINE_UNREACHABLE", -1)
        (answer,) = tensors.ModelStreamInfer(iter([_infer_request("digits", picture, "", timeout=1)]), timeout=30)
        told = answer.infer_response.parameters
        assert (told["reason"].string_param, told["retry_after_ms"].int64_param) == ("DEADLINE_UNREACHABLE", -1)


@pytest.mark.parametrize("seconds", [1e-4, 1e-3, 3e-3])
def test_short_deadlines_end_alike_on_an_idle_server(timely, picture: bytes, seconds: float) -> None:
    """Nobody is told that the server is busy, however the deadline is set: it is not."""
    with grpc.insecure_channel(timely.grpc) as channel:
        vision, tensors = _vision(channel), grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        microseconds = int(seconds * 1e6)

        def code(call, request, timeout: float) -> grpc.StatusCode:
            # Those before are given up by their callers, not by the device: it is idle when these are answered.
            vision.Classify(_request("digits", picture), timeout=30)
            vision.Caption(vision_pb2.CaptionRequest(model="scenes", image={"encoded": picture}), timeout=30)
            ended = call.future(request, timeout=timeout)
            ended.exception()
            return ended.code()

        codes = set()
        for _ in range(40):
            for timeout, wish in ((30, microseconds), (seconds, 0)):
                caption = vision_pb2.CaptionRequest(model="scenes", image={"encoded": picture}, timeout_us=wish)
                codes.add(code(vision.Classify, _request("digits", picture, timeout_us=wish), timeout))
                codes.add(code(vision.Caption, caption, timeout))
                codes.add(code(tensors.ModelInfer, _infer_request("digits", picture, "", timeout=wish), timeout))
    # What is met is answered, at the longest of them perhaps.
    assert codes <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK}
    assert grpc.StatusCode.DEADLINE_EXCEEDED in codes or seconds > 1e-3


def test_a_timeout_that_is_too_short_fails_its_own_picture_only(timely, picture: bytes) -> None:
    with grpc.insecure_channel(timely.grpc) as channel:
        requests = [_request("digits", picture, id=str(i)) for i in range(MANY)]
        requests[3].timeout_us = 1
        requests[5].timeout_us = 60_000_000
        answers = {answer.id: answer for answer in _vision(channel).ClassifyStream(iter(requests), timeout=60)}
    error = answers.pop("3").error
    assert (error.code, error.reason, error.retry_after_ms) == ("DEADLINE_EXCEEDED", "DEADLINE_UNREACHABLE", -1)
    assert len(answers) == MANY - 1
    assert all(answer.response.predictions for answer in answers.values())


def test_what_is_no_refusal_says_nothing_of_coming_back(demo_server, picture: bytes) -> None:
    with grpc.insecure_channel(demo_server.grpc) as channel:
        requests = [_request("digits", b"junk"), _request("digits", picture, priority=9)]
        for answer in _vision(channel).ClassifyStream(iter(requests), timeout=30):
            assert answer.error.code == "INVALID_ARGUMENT"
            assert not answer.error.HasField("retry_after_ms")
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        (answer,) = stub.ModelStreamInfer(iter([_infer_request("digits", b"junk", "7")]), timeout=30)
        assert answer.infer_response.id == "7"
        assert dict(answer.infer_response.parameters).keys() == {"reason", "request_id", "triton_final_response"}
        assert answer.infer_response.parameters["reason"].string_param == "BAD_IMAGE"


def test_tritonclient_is_told_of_a_refusal_on_a_stream_as_ever(timely, picture: bytes) -> None:
    tensor = triton.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([picture], object))
    told: queue.Queue[tuple[object, object]] = queue.Queue()
    with triton.InferenceServerClient(timely.grpc) as client:
        client.start_stream(callback=lambda result, error: told.put((result, error)))
        client.async_stream_infer("digits", [tensor], request_id="late", timeout=1)
        result, error = told.get(timeout=30)
        assert result is None
        assert "even on an idle device, and its deadline allows 0" in str(error)
        client.async_stream_infer("digits", [tensor], request_id="well")
        result, error = told.get(timeout=30)
        assert error is None
        assert result.get_response().id == "well"
        client.stop_stream()


def test_requests_wait_for_company_as_long_as_they_may(patient: grpc.Channel, picture: bytes) -> None:
    vision = _vision(patient)
    alone = vision.Classify(_request("gathers", picture), timeout=60).timing
    assert alone.batch_size == 1
    assert alone.queue_us >= 1_000_000
    # As many as the largest batch. The table says how many make an efficient one, and those left over wait.
    calls = [vision.Classify.future(_request("gathers", picture), timeout=60) for _ in range(16)]
    waits = sorted(call.result().timing.queue_us for call in calls)
    assert waits[len(waits) // 2] < 1_000_000, "most were enough for a batch and waited for no more"


def test_an_objective_alone_refuses_nothing(hurried: grpc.Channel, picture: bytes) -> None:
    assert _vision(hurried).Classify(_request("steered", picture), timeout=30).predictions


def test_shedding_refuses_what_would_miss_the_objective(hurried: grpc.Channel, picture: bytes) -> None:
    vision = _vision(hurried)
    assert _unreachable(vision.Classify, _request("shed", picture)) == ("DEADLINE_UNREACHABLE", -1)
    caption = vision_pb2.CaptionRequest(model="captions", image={"encoded": picture})
    assert _unreachable(vision.Caption, caption) == ("DEADLINE_UNREACHABLE", -1)
    assert vision.Classify(_request("relaxed", picture), timeout=30).predictions
