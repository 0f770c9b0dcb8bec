"""What tests of the decoder share."""

from collections.abc import Iterator

import pytest
from resonnx_server.runtime.pictures import images

from .codec import Codec


@pytest.fixture
def codec(monkeypatch: pytest.MonkeyPatch) -> Iterator[Codec]:
    codec = Codec()
    monkeypatch.setattr(images, "load", codec.load)
    monkeypatch.setattr(images, "check", lambda *_: None)
    yield codec
    codec.may_end.release(1000)
