"""Callers that look for services, models and their state: row "services, sources and versions are looked up"."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from resonnx_server.rpc.roles import HEALTH, REFLECTION

from .guarded import FRONTS, Guarded, bearer, guarded, outcome


@pytest.fixture(scope="module", params=FRONTS)
def channel(
    request: pytest.FixtureRequest, start_server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[grpc.Channel]:
    folder, flags = tmp_path_factory.mktemp("closed"), ("--no-open-health", "--no-reflection")
    with guarded(start_server, folder, request.param, *flags) as running, _channel(running) as connected:
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


@pytest.mark.parametrize("front", FRONTS)
def test_open_health_names_no_models(start_server, tmp_path: Path, front: str) -> None:
    with guarded(start_server, tmp_path, front) as running:
        with urllib.request.urlopen(_ready(running, "doubling"), timeout=20) as answer:
            assert answer.status == 200
        for path in ("unknown", "doubling/versions/7"):
            with pytest.raises(urllib.error.HTTPError, match="404") as refused:
                urllib.request.urlopen(_ready(running, path), timeout=20)
            told = json.load(refused.value)
            assert told == {"error": "there is no such model or version", "reason": "MODEL_NOT_FOUND"}


def _ready(running: Guarded, path: str) -> str:
    return f"http://{running.server.http}/v2/models/{path}/ready"
