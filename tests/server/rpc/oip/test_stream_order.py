"""ModelStreamInfer answers in the order of its requests, whatever they ask for, unless a request says otherwise."""

import io
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc
from tritonclient.utils import InferenceServerException


def _file(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (side % 255, 200, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


def _tensor(content: bytes) -> triton.InferInput:
    tensor = triton.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([content], dtype=object))
    return tensor


@pytest.fixture
def client(demo_server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(demo_server.grpc) as client:
        yield client


def _answered(client: triton.InferenceServerClient, requests: list[tuple[str, bytes, dict[str, Any]]]) -> list[Any]:
    """Send model, picture, parameters; ids are their numbers. Returns what is put until the stream has ended."""
    answers: queue.Queue[tuple[Any, InferenceServerException | None]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for number, (model, content, parameters) in enumerate(requests):
        client.async_stream_infer(model, [_tensor(content)], request_id=str(number), parameters=parameters or None)
    client.stop_stream()
    return [answers.get_nowait() for _ in range(answers.qsize())]


def test_answers_come_in_the_order_of_their_requests(client) -> None:
    """Of pictures that take unlike long to decode; an unchanged client of Triton pairs answers by nothing else."""
    requests = [("digits", _file(32 + number % 7 * 100), {}) for number in range(100)]
    answers = _answered(client, requests)
    assert [int(result.get_response().id) for result, _ in answers] == [*range(100)]


def test_failures_and_other_models_have_their_turn(demo_server, samples: Path) -> None:
    """Refused at once, or while a slow one is under way: an error waits for its turn as an answer does."""
    scene = next(samples.glob("*.png")).read_bytes()
    kinds = [("scenes", scene), ("digits", _file(40)), ("digits", b"broken"), ("unknown", scene), ("scenes", b"no")]
    sent = []
    for number in range(60):
        model, content = kinds[number % len(kinds)]
        request = pb.ModelInferRequest(model_name=model, id=str(number))
        request.inputs.add(name="image", datatype="BYTES", shape=[1])
        request.raw_input_contents.append(len(content).to_bytes(4, "little") + content)
        sent.append(request)
    with grpc.insecure_channel(demo_server.grpc) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = [*stub.ModelStreamInfer(iter(sent), timeout=60)]
    assert [answer.infer_response.id for answer in answers] == [request.id for request in sent]
    assert all(answer.infer_response.parameters["triton_final_response"].bool_param for answer in answers)
    failed = [number % 5 for number, answer in enumerate(answers) if answer.error_message]
    assert sorted({*failed}) == [2, 3, 4]
    assert len(failed) == 36


def test_words_interleave_with_answers_that_keep_their_order(client, samples: Path) -> None:
    scene = next(samples.glob("*.png")).read_bytes()
    requests = [
        ("scenes", scene, {"stream": True}) if number % 3 == 0 else ("digits", _file(32), {}) for number in range(60)
    ]
    answers = [result.get_response() for result, _ in _answered(client, requests)]
    ordered = [int(answer.id) for answer in answers if int(answer.id) % 3]
    assert ordered == [number for number in range(60) if number % 3]
    for number in range(0, 60, 3):
        parts = [answer for answer in answers if answer.id == str(number)]
        finals = [part.parameters["triton_final_response"].bool_param for part in parts]
        assert finals == [False] * (len(parts) - 1) + [True]
        assert len(parts) > 1


def test_words_end_with_a_final_answer_though_they_fail(demo_server) -> None:
    """Who collects parts by id until the final one would wait for ever."""
    request = pb.ModelInferRequest(
        model_name="scenes", id="bad", raw_input_contents=[(3).to_bytes(4, "little") + b"bad"]
    )
    request.inputs.add(name="image", datatype="BYTES", shape=[1])
    request.parameters["stream"].bool_param = True
    with grpc.insecure_channel(demo_server.grpc) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        (answer,) = stub.ModelStreamInfer(iter([request]), timeout=60)
    assert answer.error_message
    assert answer.infer_response.id == "bad"
    assert answer.infer_response.parameters["triton_final_response"].bool_param


def test_an_answer_may_be_asked_for_as_soon_as_it_is_ready(client, samples: Path) -> None:
    """Captions take many steps: classes asked for after them need not wait for them, nor they for each other."""
    scene = next(samples.glob("*.png")).read_bytes()
    slow = [("scenes", scene, {"beam_width": 10})] * 20
    answers = _answered(client, [*slow, ("digits", _file(32), {"preserve_ordering": False}), ("digits", _file(32), {})])
    ids = [int(result.get_response().id) for result, _ in answers]
    assert ids.index(20) < 19, "it overtook"
    assert [id for id in ids if id != 20] == [*range(20), 21]


def test_preserve_ordering_is_a_bool(client) -> None:
    answers = _answered(
        client, [("digits", _file(32), {}), ("digits", _file(32), {"preserve_ordering": 0}), ("digits", _file(32), {})]
    )
    assert [error is None for _, error in answers] == [True, False, True]
    assert "parameters['preserve_ordering']: must be a bool" in answers[1][1].message()
