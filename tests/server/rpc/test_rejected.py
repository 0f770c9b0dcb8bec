"""Calls that no model's counters see are counted, each once, under labels that no caller can make up."""

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc
from resonnx_server.errors import ModelRefused, NotFound, ServerError, Unavailable, VersionNotFound
from resonnx_server.inference.registry import Models, Refusal

from ...conftest import RunningServer
from ..observe.metrics_page import read

Call = Callable[["Stubs", str, int], object]
# Failures of calls: of those that a model has, and of those that none has.
_FAILURES = ("nv_inference_request_failure", "resonnx_request_errors_total", "resonnx_rejected_calls_total")


class Stubs:
    """Both protocols of one server."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.vision = vision_pb2_grpc.VisionStub(channel)
        self.tensors = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)


def _classify(stubs: Stubs, name: str, version: int) -> object:
    return stubs.vision.Classify(vision_pb2.ClassifyRequest(model=name, version=version), timeout=20)


def _classify_stream(stubs: Stubs, name: str, version: int) -> object:
    request = vision_pb2.ClassifyRequest(model=name, version=version)
    return [answer.error.code for answer in stubs.vision.ClassifyStream(iter([request]), timeout=20)]


def _caption(stubs: Stubs, name: str, version: int) -> object:
    return stubs.vision.Caption(vision_pb2.CaptionRequest(model=name, version=version), timeout=20)


def _stream_caption(stubs: Stubs, name: str, version: int) -> object:
    return list(stubs.vision.StreamCaption(vision_pb2.CaptionRequest(model=name, version=version), timeout=20))


def _get_model(stubs: Stubs, name: str, version: int) -> object:
    return stubs.vision.GetModel(vision_pb2.GetModelRequest(model=name, version=version), timeout=20)


def _infer_request(name: str, version: int) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(model_name=name, model_version=str(version or ""))


def _infer(stubs: Stubs, name: str, version: int) -> object:
    return stubs.tensors.ModelInfer(_infer_request(name, version), timeout=20)


def _stream_infer(stubs: Stubs, name: str, version: int) -> object:
    return list(stubs.tensors.ModelStreamInfer(iter([_infer_request(name, version)]), timeout=20))


def _asking(method: str) -> Call:
    def ask(stubs: Stubs, name: str, version: int) -> object:
        request = getattr(pb, f"{method}Request")(name=name, version=str(version or ""))
        return getattr(stubs.tensors, method)(request, timeout=20)

    return ask


CLASSIFY = (_classify, _classify_stream)
CAPTION = (_caption, _stream_caption)
INFER = (_infer, _stream_infer)
TELL = (_get_model, _asking("ModelMetadata"), _asking("ModelConfig"), _asking("ModelStatistics"))


@pytest.fixture(scope="module")
def stubs(demo_server) -> Iterator[Stubs]:
    with grpc.insecure_channel(demo_server.grpc) as channel:
        yield Stubs(channel)


def _failures(server: RunningServer) -> dict[tuple[str, str, str], float]:
    """Return all counters of failed calls by name, model and reason."""
    families = read(server.get("/metrics")[1], openmetrics=False)
    samples = [sample for name in _FAILURES if name in families for sample in families[name].samples.items()]
    return {
        (name, dict(labels).get("model", ""), dict(labels)["reason"]): value
        for (name, labels), value in samples
        if value
    }


def _changes(server: RunningServer, call: Callable[[], object]) -> dict[tuple[str, str, str], float]:
    # Callers of tests before may have left without waiting.
    while server.metric("resonnx_requests_in_progress"):
        pass
    before = _failures(server)
    with suppress(grpc.RpcError):
        call()
    after = _failures(server)
    return {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0)}


@pytest.mark.parametrize("call", [*CLASSIFY, *CAPTION, *INFER, *TELL])
@pytest.mark.parametrize(
    ("name", "version", "reason"),
    [("nobody", 0, "MODEL_NOT_FOUND"), ("", 0, "MODEL_NOT_FOUND"), ("digits", 9, "VERSION_NOT_FOUND")],
)
def test_what_is_not_there(demo_server, stubs, call: Call, name: str, version: int, reason: str) -> None:
    changes = _changes(demo_server, lambda: call(stubs, name, version))
    if not name and call is TELL[-1]:
        assert changes == {}, "statistics of all models"
    else:
        assert changes == {("resonnx_rejected_calls_total", "", reason): 1}


@pytest.mark.parametrize(("calls", "name"), [(CLASSIFY, "scenes"), (CAPTION, "digits")])
def test_the_wrong_task(demo_server, stubs, calls: tuple[Call, ...], name: str) -> None:
    for call in calls:
        changes = _changes(demo_server, lambda call=call: call(stubs, name, 0))
        assert changes == {("resonnx_rejected_calls_total", "", "WRONG_TASK"): 1}


@pytest.mark.parametrize(("calls", "name"), [(CLASSIFY, "digits"), (CAPTION, "scenes"), (INFER, "digits")])
def test_what_a_model_has_is_counted_by_the_model_alone(demo_server, stubs, calls: tuple[Call, ...], name: str) -> None:
    for call in calls:
        changes = _changes(demo_server, lambda call=call: call(stubs, name, 0))
        assert sorted(kind for kind, _, _ in changes) == [
            "nv_inference_request_failure",
            "resonnx_request_errors_total",
        ]
        assert {(model, count) for (_, model, _), count in changes.items()} == {(name, 1)}


def test_other_calls_that_fail_or_ask_for_what_is_not_there(demo_server, stubs) -> None:
    odd = pb.ModelInferRequest(model_name="digits", model_version="one")
    changes = _changes(demo_server, lambda: stubs.tensors.ModelInfer(odd, timeout=20))
    assert changes == {("resonnx_rejected_calls_total", "", "VERSION_NOT_FOUND"): 1}
    load = pb.RepositoryModelLoadRequest(model_name="digits")
    changes = _changes(demo_server, lambda: stubs.tensors.RepositoryModelLoad(load, timeout=20))
    assert changes == {("resonnx_rejected_calls_total", "", "ADMIN_PORT_ONLY"): 1}
    assert _changes(demo_server, lambda: _asking("ModelReady")(stubs, "nobody", 0)) == {}, "it is an answer"


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
def test_what_does_not_parse(demo_server, method: str) -> None:
    with grpc.insecure_channel(demo_server.grpc) as channel:
        path = f"/inference.GRPCInferenceService/{method}"

        def call() -> None:
            if method == "ModelInfer":
                channel.unary_unary(path)(b"\xff", timeout=20)
            else:
                list(channel.stream_stream(path)(iter([b"\xff"]), timeout=20))

        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert refused.value.code() is grpc.StatusCode.INTERNAL
        assert refused.value.details() == "the request message does not parse"
        assert _changes(demo_server, call) == {("resonnx_rejected_calls_total", "", "MESSAGE_UNREADABLE"): 1}


def test_what_is_too_large(start_server, demo_repository: Path) -> None:
    with (
        start_server(demo_repository, "--max-message-bytes", "1048576") as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        stubs = Stubs(channel)
        image = vision_pb2.Image(encoded=bytes(1_100_000))
        request = vision_pb2.ClassifyRequest(model="digits", image=image)
        once = {("resonnx_rejected_calls_total", "", "MESSAGE_TOO_LARGE"): 1}
        assert _changes(server, lambda: stubs.vision.Classify(request, timeout=20)) == once
        assert _changes(server, lambda: list(stubs.vision.ClassifyStream(iter([request]), timeout=20))) == once


def test_what_has_too_many_fields(demo_server) -> None:
    """Its series is there before it is first counted, as those of all reasons."""
    families = read(demo_server.get("/metrics")[1], openmetrics=False)
    reasons = {dict(labels)["reason"] for _, labels in families["resonnx_rejected_calls_total"].samples}
    with grpc.insecure_channel(demo_server.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        changes = _changes(demo_server, lambda: call(b"\x2a\x00" * 40_000, timeout=20))
    assert changes == {("resonnx_rejected_calls_total", "", "INVALID_INPUT"): 1}
    assert "INVALID_INPUT" in reasons


def test_methods_that_nobody_serves(demo_server) -> None:
    with grpc.insecure_channel(demo_server.grpc) as channel:
        call = channel.unary_unary("/resonnx.v1.Vision/Paint")
        changes = _changes(demo_server, lambda: call(b"", timeout=20))
    assert changes == {("resonnx_rejected_calls_total", "", "METHOD_UNKNOWN"): 1}


def test_what_ends_before_its_body_is_read_over_http(demo_server) -> None:
    """A deadline that is none, and one that passes before the body comes."""
    host, port = demo_server.http.rsplit(":", 1)
    for timeout, reason in (("soon", "INVALID_INPUT"), ("20m", "DEADLINE_EXCEEDED")):
        head = (
            f"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nGrpc-Timeout: {timeout}\r\n\r\n"
        )

        def call(head: str = head, reason: str = reason) -> None:
            with socket.create_connection((host, int(port)), timeout=20) as connection:
                connection.sendall(head.encode())
                assert reason.encode() in connection.recv(1 << 16)

        assert _changes(demo_server, call) == {("resonnx_rejected_calls_total", "", reason): 1}


def test_names_of_requests_are_no_labels(demo_server, stubs) -> None:
    before = demo_server.get("/metrics")[1].count("\n")
    for i in range(50):
        with pytest.raises(grpc.RpcError):
            _infer(stubs, f"made-up-{i}", 0)
    page = demo_server.get("/metrics")[1]
    assert "made-up" not in page
    assert page.count("\n") <= before + 2


def test_a_refused_model(start_server, demo_repository: Path, tmp_path: Path) -> None:
    shutil.copytree(demo_repository / "digits", tmp_path / "models" / "digits")
    shutil.copytree(demo_repository / "digits", tmp_path / "models" / "damaged")
    (tmp_path / "models" / "damaged" / "1" / "model.onnx").write_bytes(b"")
    with start_server(tmp_path / "models") as server, grpc.insecure_channel(server.grpc) as channel:
        stubs = Stubs(channel)
        for call in (_classify, _infer, _get_model):
            changes = _changes(server, lambda call=call: call(stubs, "damaged", 0))
            assert changes == {("resonnx_rejected_calls_total", "", "MODEL_REFUSED"): 1}


def test_versions_that_are_not_there_of_models_that_do_not_serve() -> None:
    models = Models()
    models.expect({"damaged": 2, "slow": 3})
    models.refuse(Refusal("damaged", 2, "it is damaged"))
    for version, refused, awaited in (
        (0, ModelRefused, Unavailable),
        (1, VersionNotFound, VersionNotFound),
        (2, ModelRefused, VersionNotFound),
        (3, VersionNotFound, Unavailable),
    ):
        for name, kind in (("damaged", refused), ("slow", awaited), ("nobody", NotFound)):
            with pytest.raises(ServerError) as told:
                models.get(name, version)
            assert type(told.value) is kind, (name, version)


@pytest.mark.parametrize(("count", "said"), [(0, "0 models"), (2, "model-0, model-1"), (9, "9 models")])
def test_a_name_that_there_is_not_is_answered_with_those_that_there_are(count: int, said: str) -> None:
    models = Models()
    models.expect({f"model-{i}": 1 for i in range(count)})
    if count:
        models.refuse(Refusal("model-1", 1, "it is damaged"))
    with pytest.raises(NotFound) as told:
        models.get("modle-1")
    assert str(told.value) == f"model 'modle-1' is not in the repository, which has {said}"


def test_a_server_that_goes() -> None:
    models = Models(refusing=True)
    for _ in range(2):
        with pytest.raises(Unavailable):
            models.find("digits")
    assert models.rejected.counts["UNAVAILABLE"] == 2
    assert sum(models.rejected.counts.values()) == 2
