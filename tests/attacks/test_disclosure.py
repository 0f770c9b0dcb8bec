"""Callers that look for services, models and their state: row "services, sources and versions are looked up"."""

from collections.abc import Iterator

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
