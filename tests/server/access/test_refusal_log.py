"""Refused calls in the log."""

import logging

import pytest
from resonnx_server.access.refusal_log import RefusalLog
from resonnx_server.errors import KeyMissing, KeyUnknown, RoleMissing

from ..waiting import Clock


def test_one_line_a_second_says_how_many_had_none(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    log = RefusalLog(clock)
    for _ in range(1000):
        log.write(KeyUnknown(), "/a.B/C", "ipv4:203.0.113.7:4000")
    clock.ns += 1_000_000_000
    log.write(KeyMissing(), "/metrics", "ipv6:[2001:db8::1]:0")
    first, second = map(vars, caplog.records)
    assert (first["reason"], first["method"], first["caller"]) == ("KEY_UNKNOWN", "/a.B/C", "ip:203.0.113.7")
    assert (second["reason"], second["caller"]) == ("KEY_MISSING", "ip:2001:db8::/64")
    assert (first["refused_since_last_line"], second["refused_since_last_line"]) == (0, 999)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_a_known_caller_is_named_beside_its_address(caplog: pytest.LogCaptureFixture) -> None:
    RefusalLog().write(RoleMissing("infer", "key:monitor"), "/a.B/C", "ipv4:203.0.113.7:4000")
    (line,) = map(vars, caplog.records)
    assert (line["caller"], line["address"]) == ("key:monitor", "ip:203.0.113.7")
