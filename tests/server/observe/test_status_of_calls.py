"""The status that the span of a call of gRPC has, where its handler chose none."""

import asyncio
import time
from typing import Any

import grpc
import pytest
from resonnx_server.observe.requests.identity import Identity
from resonnx_server.rpc.fronts import watched

_OK, _CANCELLED, _LATE = grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("code", "remaining_s", "is_cancelled", "told"),
    [
        (_OK, None, False, _OK),
        (_OK, 0.05, False, _OK),
        (_OK, 0.0, False, _LATE),
        (_OK, None, True, _CANCELLED),
        (_OK, 5.0, True, _CANCELLED),
        # Of 10 s.
        (_OK, 0.05, True, _LATE),
        (grpc.StatusCode.UNAVAILABLE, 0.0, True, grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_status_of_a_span(
    code: grpc.StatusCode, remaining_s: float | None, *, is_cancelled: bool, told: grpc.StatusCode
) -> None:
    ended: list[dict[str, Any]] = []

    class Span:
        def end(self, attributes: dict[str, Any], error: str | None) -> None:
            ended.append({**attributes, "error": error})

    identity = Identity()
    identity.start_ns, identity.call_span = time.monotonic_ns() - 10**10, Span()  # type: ignore[assignment]
    try:
        if is_cancelled:
            raise asyncio.CancelledError
        watched.end(identity, "", code, remaining_s)
    except asyncio.CancelledError:
        watched.end(identity, "", code, remaining_s)
    assert [each["rpc.response.status_code"] for each in ended] == [told.name]
    assert (ended[0]["error"] is None) is (told in {_OK, _CANCELLED})
