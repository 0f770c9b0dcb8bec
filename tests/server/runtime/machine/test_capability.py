"""The compute capability that a driver tells."""

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest
from resonnx_server.runtime.machine.capability import compute_capability


def _driver(failing: str = "") -> Any:
    """A driver of a GPU of capability 8.9, one function of which may fail."""

    def told(name: str, value: int) -> Any:
        def call(*arguments: Any) -> int:
            if value:
                ctypes.cast(arguments[0], ctypes.POINTER(ctypes.c_int))[0] = {75: 8, 76: 9}.get(arguments[1], 0)
            return int(name == failing)

        return call

    names = {"cuInit": 0, "cuDeviceGet": 1, "cuDeviceGetAttribute": 1}
    return SimpleNamespace(**{name: told(name, value) for name, value in names.items()})


def test_it_is_major_and_minor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: _driver())
    assert compute_capability() == "8.9"


@pytest.mark.parametrize("failing", ["cuInit", "cuDeviceGet", "cuDeviceGetAttribute"])
def test_without_a_gpu_there_is_none(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: _driver(failing))
    assert compute_capability() is None


def test_without_a_driver_there_is_none() -> None:
    assert compute_capability("libno-such-driver.so.1") is None
    # A library without its functions.
    assert compute_capability("libc.so.6") is None
