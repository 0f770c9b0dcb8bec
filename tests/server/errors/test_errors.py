"""Errors of requests: all are in one place, and say what a caller can act on."""

import pytest
from resonnx_server import errors
from resonnx_server.errors import access, base, requests


def test_every_error_is_among_the_rooms_names() -> None:
    defined = {
        name
        for module in (access, base, requests)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, errors.ServerError)
    }
    assert defined == set(errors.__all__) - {"FailureReason"}


def test_errors_of_a_field_name_it() -> None:
    for error in (errors.BadClip("clip", "3 frames"), errors.ClipTooCostly("clip", "3 frames")):
        assert error.message == "clip: 3 frames"
        assert error.field == "clip"


@pytest.mark.parametrize(("wait_ns", "hint_ms"), [(0.0, 20), (1.5e8, 150), (1e12, 2000)])
def test_hints_are_within_bounds(wait_ns: float, hint_ms: int) -> None:
    assert errors.Overloaded.for_ns("full", wait_ns).retry_after_ms == hint_ms
