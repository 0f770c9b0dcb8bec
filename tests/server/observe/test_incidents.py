"""Failures in the log: one line a second for each kind, with the id that callers get."""

import logging
from itertools import count

import pytest
from resonnx_server.observe.incidents import Incidents

from ..waiting import Clock

_LOG = logging.getLogger("tested")


def _failed(number: int = 0) -> Exception:
    """Return an exception that was raised, on one of two lines."""
    try:
        if number:
            raise ValueError(f"secret {number}")
        raise ValueError("secret")
    except ValueError as error:
        return error


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def incidents(clock: Clock, caplog: pytest.LogCaptureFixture) -> Incidents:
    numbers = count(1)
    caplog.set_level(logging.ERROR)
    return Incidents(clock, lambda: f"id{next(numbers)}")


def test_a_flood_is_one_line_a_second_and_its_calls_have_the_lines_id(
    incidents: Incidents, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    ids = []
    for _ in range(2500):
        ids.append(incidents.report(_LOG, "a call failed", _failed(), "ip:203.0.113.7"))
        clock.ns += 1_000_000
    logged = [record.__dict__["incident"] for record in caplog.records]
    assert logged == sorted(set(ids)) == ["id1", "id2", "id3"]
    assert caplog.records[0].exc_info is not None
    assert caplog.records[1].__dict__["unlogged_before"] == ids.count("id1") - 1
    assert caplog.records[0].__dict__["caller"] == "ip:203.0.113.7"


def test_other_callers_messages_and_lines_of_code_are_kinds_of_their_own(
    incidents: Incidents, caplog: pytest.LogCaptureFixture
) -> None:
    ids = {
        incidents.report(_LOG, "a call failed", _failed(), "a"),
        incidents.report(_LOG, "a call failed", _failed(), "b"),
        incidents.report(_LOG, "a batch failed", _failed(), "a"),
        incidents.report(_LOG, "a call failed", _failed(1), "a"),
    }
    assert len(ids) == len(caplog.records) == 4


def test_many_kinds_together_are_limited_as_well(
    incidents: Incidents, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for second in range(3):
        clock.ns = second * 1_000_000_000
        for number in range(1000):
            incidents.report(_LOG, "a call failed", _failed(), f"caller {number}")
    assert len(caplog.records) == 3 * 8
    assert len(incidents._kinds) <= 256
