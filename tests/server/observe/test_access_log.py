"""The access log: one line for each request, written elsewhere; none waits for a writer that is slow."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from resonnx_server.errors import KeyUnknown, RoleMissing
from resonnx_server.observe.requests.access_log import AccessLog, caller_of
from resonnx_server.observe.requests.identity import IDENTITY, Identity
from resonnx_server.observe.trace_context import TRACE_CONTEXT, TraceContext


@pytest.fixture
def identity() -> Iterator[Identity]:
    call = Identity([("x-request-id", "a\nb")], "/some/Method")
    token = IDENTITY.set(Identity.within(call))
    yield call
    IDENTITY.reset(token)


def _fields(written: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [json.loads(line) for line in "".join(written).splitlines()]
    assert all(line.pop("time").endswith("+00:00") for line in found)
    return found


def test_a_line(identity: Identity) -> None:
    written: list[str] = []
    log, call = AccessLog(), identity
    log.start(written.append)
    token = TRACE_CONTEXT.set(TraceContext("1" * 32, "2" * 16, is_sampled=False))
    log.ended("key:team", "OK", 1_234_567, model="digits", version=1, rows=2, bytes=99)
    TRACE_CONTEXT.reset(token)
    log.call_ended(call, "key:team", "OK")
    log.close()
    (told,) = _fields(written)
    assert told == {
        "level": "info",
        "logger": "resonnx.access",
        "message": "request",
        "method": "/some/Method",
        "model": "digits",
        "version": 1,
        "rows": 2,
        "bytes": 99,
        "outcome": "OK",
        "ms": 1.235,
        "caller": "key:team",
        "request_id": "a_b",
        "trace_id": "1" * 32,
    }


def test_a_call_without_requests_has_a_line_with_its_reason_and_no_address(identity: Identity) -> None:
    written: list[str] = []
    log = AccessLog()
    log.start(written.append)
    identity.reason = "MODEL_NOT_FOUND"
    log.call_ended(identity, "ip:192.0.2.1", "NOT_FOUND")
    log.close()
    (told,) = _fields(written)
    assert (told["outcome"], "caller" in told, "192.0.2.1" in str(told)) == ("MODEL_NOT_FOUND", False, False)


def test_a_writer_that_hangs_costs_lines_that_are_counted_and_no_time(identity: Identity) -> None:
    written: list[str] = []
    may_write, writes = threading.Event(), threading.Event()

    def write(lines: str) -> None:
        writes.set()
        may_write.wait(20)
        written.append(lines)

    log = AccessLog(most=3)
    log.start(write)
    log.ended("", "OK", 0, number=0)
    assert writes.wait(20)
    for number in range(1, 10):
        log.ended("", "OK", 0, number=number)
    may_write.set()
    while len("".join(written).splitlines()) < 4:
        threading.Event().wait(0.001)
    log.ended("", "OK", 0, number=10)
    log.close()
    told = _fields(written)
    assert [line["number"] for line in told] == [0, 1, 2, 3, 10]
    assert [line.get("dropped_before") for line in told] == [None, None, None, None, 6]


def test_many_lines_are_written_together_in_their_order(identity: Identity) -> None:
    written: list[str] = []
    log = AccessLog()
    log.start(written.append)
    for number in range(100):
        log.ended("", "OK", 0, number=number)
    log.close()
    assert [line["number"] for line in _fields(written)] == [*range(100)]
    assert all(len(lines) <= 4096 and lines.endswith("\n") for lines in written)
    assert len(written) < 20


def test_the_caller_that_an_error_refuses() -> None:
    assert caller_of(KeyUnknown()) == ""
    assert caller_of(RoleMissing("admin", "key:team")) == "key:team"
