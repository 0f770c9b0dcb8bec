"""A key's use, or sight, of models and priorities that are not its own: row "another's models or priorities"."""

import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc
from resonnx_server.access.keys import digest_of

from ..conftest import RunningServer
from ..server import bare_graphs
from .guarded import FRONTS, bearer

OWN, OTHER, BROKEN = "own", "other", "broken"
VISION = vision_pb2.DESCRIPTOR.services_by_name["Vision"].full_name


@pytest.fixture(scope="module", params=FRONTS)
def server(
    request: pytest.FixtureRequest, start_server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("rights")
    for name in (OWN, OTHER):
        (folder / "models" / name / "1").mkdir(parents=True)
        (folder / "models" / name / "1" / "model.onnx").write_bytes(bare_graphs.doubling())
    (folder / "models" / BROKEN / "1").mkdir(parents=True)
    (folder / "models" / BROKEN / "1" / "model.onnx").write_bytes(b"no model")
    keys = folder / "keys.toml"
    keys.write_text(
        f"[keys.limited]\nsha256 = '{digest_of('limited').hex()}'\nmodels = ['{OWN}', 'nowhere']\n"
        f"[keys.low]\nsha256 = '{digest_of('low').hex()}'\nbest_priority = 6\n"
        f"[keys.high]\nsha256 = '{digest_of('high').hex()}'\nbest_priority = 1\n"
        f"[keys.slow]\nsha256 = '{digest_of('slow').hex()}'\nrate_per_s = 0.001\n"
        f"[keys.single]\nsha256 = '{digest_of('single').hex()}'\nmax_concurrent = 1\n"
    )
    flags = ("--no-open-health", "--grpc-front", request.param)
    with start_server(folder / "models", "--keys-file", str(keys), *flags) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel


def _infer(name: str, priority: int = 0) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=name, raw_input_contents=[bytes(12)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    if priority:
        request.parameters["priority"].int64_param = priority
    return request


CALLS: dict[str, Callable[[Any, Any, str, Any], object]] = {
    "ModelInfer": lambda vision, tensors, name, key: tensors.ModelInfer(_infer(name), timeout=20, metadata=key),
    "ModelReady": lambda vision, tensors, name, key: tensors.ModelReady(
        pb.ModelReadyRequest(name=name), timeout=20, metadata=key
    ),
    "ModelMetadata": lambda vision, tensors, name, key: tensors.ModelMetadata(
        pb.ModelMetadataRequest(name=name), timeout=20, metadata=key
    ),
    "ModelConfig": lambda vision, tensors, name, key: tensors.ModelConfig(
        pb.ModelConfigRequest(name=name), timeout=20, metadata=key
    ),
    "ModelStatistics": lambda vision, tensors, name, key: tensors.ModelStatistics(
        pb.ModelStatisticsRequest(name=name), timeout=20, metadata=key
    ),
    "GetModel": lambda vision, tensors, name, key: vision.GetModel(
        vision_pb2.GetModelRequest(model=name), timeout=20, metadata=key
    ),
    "Classify": lambda vision, tensors, name, key: vision.Classify(
        vision_pb2.ClassifyRequest(model=name), timeout=20, metadata=key
    ),
    "Caption": lambda vision, tensors, name, key: vision.Caption(
        vision_pb2.CaptionRequest(model=name), timeout=20, metadata=key
    ),
}


def _code(call: Callable[[], object]) -> str:
    try:
        call()
    except grpc.RpcError as error:
        name: str = error.code().name
        return name
    return "OK"


@pytest.mark.parametrize("name", CALLS)
def test_a_model_of_others_is_refused_whether_there_is_one_or_not(channel: grpc.Channel, name: str) -> None:
    stubs = vision_pb2_grpc.VisionStub(channel), grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    ask = CALLS[name]
    own = _code(lambda: ask(*stubs, OWN, bearer("limited")))
    assert own == ("INVALID_ARGUMENT" if name in ("Classify", "Caption") else "OK")
    for model in (OTHER, "unknown", ""):
        expected = "OK" if name == "ModelStatistics" and not model else "PERMISSION_DENIED"
        assert _code(lambda model=model: ask(*stubs, model, bearer("limited"))) == expected
    assert _code(lambda: ask(*stubs, OTHER, bearer("high"))) == own


def test_streams_refuse_a_model_of_others(channel: grpc.Channel) -> None:
    vision = vision_pb2_grpc.VisionStub(channel)
    tensors = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    key = bearer("limited")
    requests = iter([vision_pb2.ClassifyRequest(model=OTHER)])
    (answer,) = vision.ClassifyStream(requests, timeout=20, metadata=key)
    assert (answer.error.code, answer.error.reason) == ("PERMISSION_DENIED", "MODEL_NOT_ALLOWED")
    refused, served = tensors.ModelStreamInfer(iter([_infer(OTHER), _infer(OWN)]), timeout=20, metadata=key)
    assert "may not use" in refused.error_message
    assert not served.error_message
    caption = vision_pb2.CaptionRequest(model=OTHER)
    assert _code(lambda: [*vision.StreamCaption(caption, timeout=20, metadata=key)]) == "PERMISSION_DENIED"


def test_lists_hold_a_key_s_models_only(channel: grpc.Channel) -> None:
    vision = vision_pb2_grpc.VisionStub(channel)
    tensors = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    for key, served, refused in (("limited", [OWN], []), ("high", [OTHER, OWN], [BROKEN])):
        more: dict[str, Any] = {"timeout": 20, "metadata": bearer(key)}
        models = vision.ListModels(vision_pb2.ListModelsRequest(), **more).models
        index = tensors.RepositoryIndex(pb.RepositoryIndexRequest(), **more).models
        statistics = tensors.ModelStatistics(pb.ModelStatisticsRequest(), **more).model_stats
        assert [entry.name for entry in statistics] == served
        for found in (models, index):
            assert sorted(entry.name for entry in found) == sorted(served + refused)


def test_health_tells_nothing_of_models_of_others(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)

    def check(service: str, key: str) -> str:
        asked = health_pb2.HealthCheckRequest(service=service)
        return _code(lambda: stub.Check(asked, timeout=20, metadata=bearer(key)))

    def watch(service: str, key: str) -> str:
        asked = health_pb2.HealthCheckRequest(service=service)
        return _code(lambda: next(stub.Watch(asked, timeout=20, metadata=bearer(key))))

    for ask in (check, watch):
        assert {ask(name, "limited") for name in ("", VISION, f"{VISION}/{OWN}", f"{VISION}/{OWN}:1")} == {"OK"}
        assert ask(f"{VISION}/{OTHER}", "high") == "OK"
        for model in (OTHER, f"{OTHER}:1", BROKEN, "unknown", ""):
            assert ask(f"{VISION}/{model}", "limited") == "PERMISSION_DENIED"


def _page(server: RunningServer, path: str, key: str) -> str:
    asked = urllib.request.Request(f"http://{server.http}{path}", headers=dict(bearer(key)))
    with urllib.request.urlopen(asked, timeout=20) as response:
        text: str = response.read().decode()
        return text


def _samples(page: str) -> set[str]:
    """Return names and labels of a page's samples."""
    return {line.rpartition(" ")[0] for line in page.splitlines() if not line.startswith("#")}


def test_pages_name_a_key_s_models_only(server: RunningServer, channel: grpc.Channel) -> None:
    tensors = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    for name in (OWN, OTHER):
        tensors.ModelInfer(_infer(name), timeout=20, metadata=bearer("high"))
    every, limited = (_samples(_page(server, "/metrics", key)) for key in ("high", "limited"))
    seconds = 'resonnx_caller_device_seconds_total{model="%s",version="1",caller="%s"}'
    assert seconds % (OWN, "key:high") in every
    every = every - {seconds % (OWN, "key:high")} | {seconds % (OWN, "other")}
    of_others = {sample for sample in every if f'model="{OTHER}"' in sample or f'model="{BROKEN}"' in sample}
    assert 'resonnx_model_ready{model="broken",version="1"}' in of_others
    assert any(sample.startswith("nv_inference_count") for sample in of_others)
    assert every - limited == of_others
    assert limited - every == set()
    lines = _page(server, "/readyz", "high").splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "ready",
        f"serving {OTHER} version 1",
        f"serving {OWN} version 1",
        f"refused {BROKEN} version 1",
    ]
    assert _page(server, "/readyz", "limited").splitlines() == [
        "ready",
        f"serving {OWN} version 1",
        "serving 1 other model",
        "refused 1 other model",
    ]


@pytest.mark.parametrize(
    ("key", "allowed", "refused"),
    [("limited", (0, 4, 8), (1, 3)), ("low", (0, 6, 8), (1, 4, 5)), ("high", (0, 1, 8), ())],
)
def test_a_priority_needs_a_key_that_allows_it(
    channel: grpc.Channel, key: str, allowed: tuple[int, ...], refused: tuple[int, ...]
) -> None:
    tensors = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def code(priority: int) -> str:
        request = _infer(OWN, priority)
        return _code(lambda: tensors.ModelInfer(request, timeout=20, metadata=bearer(key)))

    assert [code(priority) for priority in allowed] == ["OK"] * len(allowed)
    assert [code(priority) for priority in refused] == ["PERMISSION_DENIED"] * len(refused)


def test_a_key_sends_no_more_than_its_rate(channel: grpc.Channel) -> None:
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    stub.ModelInfer(_infer(OWN), timeout=20, metadata=bearer("slow"))
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(_infer(OWN), timeout=20, metadata=bearer("slow"))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(refused.value.trailing_metadata())["grpc-retry-pushback-ms"] == "2000"
    assert "may send 0.001 requests a second" in refused.value.details()
    stub.ModelInfer(_infer(OWN), timeout=20, metadata=bearer("high"))


def test_a_key_has_no_more_requests_in_progress_than_it_may(channel: grpc.Channel) -> None:
    """Those of a stream count one by one, and places are free again once requests have ended."""
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    answers = list(stub.ModelStreamInfer(iter([_infer(OWN)] * 200), timeout=20, metadata=bearer("single")))
    outcomes = {answer.infer_response.parameters["reason"].string_param for answer in answers}
    assert outcomes == {"", "RATE_LIMITED"}
    stub.ModelInfer(_infer(OWN), timeout=20, metadata=bearer("single"))
