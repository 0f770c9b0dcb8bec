"""What tests of the server's rooms share."""

import sys
from collections.abc import Iterator

import pytest

from ..running import RunningServer


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


@pytest.fixture(scope="session")
def video_server(start_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of a model with a step, of one that reads both ways, and of one over given features."""
    # It needs torch.
    from . import clip_model

    repository = tmp_path_factory.mktemp("videos")
    clip_model.write(repository / "motions" / "1", clip_model.files())
    clip_model.write(repository / "both-ways" / "1", clip_model.files(bidirectional=True))
    clip_model.write(repository / "numbers" / "1", clip_model.files(given=True))
    with start_server(repository) as running:
        yield running
