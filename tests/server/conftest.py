"""What tests of the server's rooms share."""

import sys

import pytest


@pytest.fixture(autouse=True)
def _no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files without a manifest are tried in no child process, which takes half a second; real servers do it."""
    name = "resonnx_server.repository.bare.bare_file"
    if name in sys.modules:
        monkeypatch.setattr(f"{name}.try_in_child", lambda _: None)
