"""The access log: one line for each request, written elsewhere; none waits for a writer that is slow."""

import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from resonnx_server.errors import KeyUnknown, RoleMissing
from resonnx_server.observe.logs import JsonFormatter
from resonnx_server.observe.requests.access_log import AccessLog, caller_of
from resonnx_server.observe.requests.identity import IDENTITY, Identity
from resonnx_server.observe.trace_context import TRACE_CONTEXT, TraceContext


@pytest.fixture
def identity() -> Iterator[Identity]:
    call = Identity([("x-request-id", "a\nb")], "/some/Method")
    token = IDENTITY.set(Identity.within(call))
    yield call
    IDENTITY.reset(token)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    found = json.loads(JsonFormatter().format(record))
    assert found.pop("time").endswith("+00:00")
    return found


def test_a_line(identity: Identity) -> None:
    records: list[logging.LogRecord] = []
    log, call = AccessLog(), identity
    log.start(records.append)
    token = TRACE_CONTEXT.set(TraceContext("1" * 32, "2" * 16, is_sampled=False))
    log.ended("key:team", "OK", 1_234_567, model="digits", version=1, rows=2, bytes=99)
    TRACE_CONTEXT.reset(token)
    log.call_ended(call, "key:team", "OK")
    log.close()
    (record,) = records
    assert _fields(record) == {
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
    records: list[logging.LogRecord] = []
    log = AccessLog()
    log.start(records.append)
    identity.reason = "MODEL_NOT_FOUND"
    log.call_ended(identity, "ip:192.0.2.1", "NOT_FOUND")
    log.close()
    told = _fields(records[0])
    assert (told["outcome"], "caller" in told, "192.0.2.1" in str(told)) == ("MODEL_NOT_FOUND", False, False)


def test_a_writer_that_hangs_costs_lines_that_are_counted_and_no_time(identity: Identity) -> None:
    records: list[logging.LogRecord] = []
    may_write, writes = threading.Event(), threading.Event()

    def write(record: logging.LogRecord) -> None:
        writes.set()
        may_write.wait(20)
        records.append(record)

    log = AccessLog(most=3)
    log.start(write)
    log.ended("", "OK", 0, number=0)
    assert writes.wait(20)
    for number in range(1, 10):
        log.ended("", "OK", 0, number=number)
    may_write.set()
    while len(records) < 4:
        threading.Event().wait(0.001)
    log.ended("", "OK", 0, number=10)
    log.close()
    told = [_fields(record) for record in records]
    assert [line["number"] for line in told] == [0, 1, 2, 3, 10]
    assert [line.get("dropped_before") for line in told] == [None, None, None, None, 6]


def test_the_caller_that_an_error_refuses() -> None:
    assert caller_of(KeyUnknown()) == ""
    assert caller_of(RoleMissing("admin", "key:team")) == "key:team"
