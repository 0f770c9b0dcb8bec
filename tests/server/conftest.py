"""What tests of the server's rooms share."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files without a manifest are tried in no child process, which takes half a second; real servers do it."""
    name = "resonnx_server.repository.bare.bare_file"
    if name in sys.modules:
        monkeypatch.setattr(f"{name}.try_in_child", lambda _: None)


@pytest.fixture(autouse=True)
def _no_runs_of_this_thread() -> Iterator[None]:
    """Devices that a test drives by hand make their runs those of the test's thread."""
    yield
    if "resonnx_server.runtime.interruption" in sys.modules:
        from resonnx_server.runtime import interruption

        interruption._mine.__dict__.clear()
