"""Callers that look for services, models and their state: row "services, sources and versions are looked up"."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_server.rpc.roles import HEALTH, REFLECTION

from .guarded import FRONTS, Guarded, bearer, guarded, outcome


@pytest.fixture(scope="module", params=FRONTS)
def closed(request: pytest.FixtureRequest, start_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder, flags = tmp_path_factory.mktemp("closed"), ("--no-open-health", "--no-reflection")
    with guarded(start_server, folder, request.param, *flags) as running:
        yield running


@pytest.fixture(scope="module")
def channel(closed: Guarded) -> Iterator[grpc.Channel]:
    with _channel(closed) as connected:
        yield connected


def _channel(running: Guarded) -> grpc.Channel:
    return grpc.insecure_channel(running.server.grpc)


@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_health_that_is_not_open_needs_the_role_read(channel: grpc.Channel, method: str) -> None:
    path = f"/{HEALTH}/{method}"
    assert outcome(channel, path) == ("UNAUTHENTICATED", "KEY_MISSING")
    assert outcome(channel, path, *bearer("infer")) == ("PERMISSION_DENIED", "ROLE_MISSING")
    assert outcome(channel, path, *bearer("read"))[0] == "OK"


@pytest.mark.parametrize("service", REFLECTION)
def test_reflection_that_is_off_is_served_to_nobody(channel: grpc.Channel, service: str) -> None:
    path = f"/{service}/ServerReflectionInfo"
    for key in (None, "read", "admin"):
        assert outcome(channel, path, *bearer(key))[0] == "UNIMPLEMENTED"


MISSING = [("nobody", "", "there is no such model"), ("doubling", "7", "there is no such version")]
MISSING += [("doubling", "canary", "there is no such version")]


@pytest.mark.parametrize(("model", "version", "told"), MISSING)
def test_a_key_that_may_not_read_learns_no_names(
    closed: Guarded, channel: grpc.Channel, model: str, version: str, told: str
) -> None:
    infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    request = pb.ModelInferRequest(model_name=model, model_version=version).SerializeToString()
    with pytest.raises(grpc.RpcError) as refused:
        infer(request, metadata=bearer("infer"), timeout=20)
    assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.NOT_FOUND, told)
    place = f"{model}/versions/{version}" if version else model
    url = f"http://{closed.server.http}/v2/models/{place}/infer"
    with pytest.raises(urllib.error.HTTPError, match="404") as missing:
        urllib.request.urlopen(urllib.request.Request(url, b"{}", dict(bearer("infer"))), timeout=20)
    assert json.load(missing.value)["error"] == told


@pytest.mark.parametrize(("model", "version"), [("nobody", ""), ("doubling", "7")])
def test_a_key_that_may_read_and_infer_is_told_what_there_is(channel: grpc.Channel, model: str, version: str) -> None:
    infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    request = pb.ModelInferRequest(model_name=model, model_version=version).SerializeToString()
    with pytest.raises(grpc.RpcError) as refused:
        infer(request, metadata=bearer("admin"), timeout=20)
    assert str(refused.value.details()).endswith("which has doubling" if not version else "version 1 is served")


@pytest.mark.parametrize("front", FRONTS)
def test_open_health_names_no_models(start_server, tmp_path: Path, front: str) -> None:
    with guarded(start_server, tmp_path, front) as running:
        with urllib.request.urlopen(_ready(running, "doubling"), timeout=20) as answer:
            assert answer.status == 200
        for path in ("unknown", "doubling/versions/7"):
            with pytest.raises(urllib.error.HTTPError, match="404") as refused:
                urllib.request.urlopen(_ready(running, path), timeout=20)
            told = json.load(refused.value)
            told.pop("request_id")
            assert told == {"error": "there is no such model or version", "reason": "MODEL_NOT_FOUND"}


def _ready(running: Guarded, path: str) -> str:
    return f"http://{running.server.http}/v2/models/{path}/ready"
