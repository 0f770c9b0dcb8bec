"""The id by which the log, errors and traces name a request."""

import json
import logging
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.observe import logs
from resonnx_server.observe.requests.identity import IDENTITY, LONGEST, Identity

_ID = re.compile(r"[A-Za-z0-9._:/@+=-]{1,64}")


@given(st.text(min_size=1, max_size=200))
def test_no_text_that_a_caller_gives_breaks_a_line(text: str) -> None:
    of_call, of_message = Identity([("x-request-id", text)]), Identity()
    of_message.given = text
    for identity in (of_call, of_message):
        assert _ID.fullmatch(identity.id), identity.id
        assert len(identity.id) == min(len(text), LONGEST)


def test_the_messages_id_goes_before_the_calls_and_one_is_made_where_there_is_none() -> None:
    call = Identity((("user-agent", "x"), ("X-Request-Id", "of-the-call"), ("trace-bin", b"1")))
    message = Identity.within(call)
    assert (call.id, message.id) == ("of-the-call", "of-the-call")
    message.given = "of-the-message"
    assert (call.id, message.id) == ("of-the-call", "of-the-message")
    unnamed = Identity(())
    assert Identity.within(unnamed).id == unnamed.id == unnamed.id
    assert unnamed.id != Identity(()).id


def test_lines_of_a_task_that_serves_a_request_name_it(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logs.JsonFormatter())
    handler.addFilter(logs.LogControl())
    logger = logging.Logger("some")
    logger.addHandler(handler)
    logger.error("before")
    token = IDENTITY.set(Identity([("x-request-id", "a\nb")]))
    try:
        logger.error("during")
        logger.error("of another", extra={"request_id": "other"})
    finally:
        IDENTITY.reset(token)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line.get("request_id") for line in lines] == [None, "a_b", "other"]
