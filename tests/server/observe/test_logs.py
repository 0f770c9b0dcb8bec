"""What callers' pictures make libraries say does not reach the log."""

import io
import logging
import struct
import warnings

import pytest
from PIL import Image, TiffImagePlugin
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.observe import logs
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.options import PictureOptions


def _with_damaged_exif(tag: int) -> bytes:
    """A CMYK picture, which Pillow decodes, with a tag whose value would lie behind the file's end."""
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, tag, 2, 1000, 1 << 20) + bytes(4)
    buffer = io.BytesIO()
    Image.new("CMYK", (16, 16)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def test_damaged_pictures_warn_of_nothing_and_leave_nothing(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    options = PictureOptions(ImageInput(width=8, height=8, resize=ImageInput.RESIZE_STRETCH, filter=1))
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    # Where Python notes what has been told.
    monkeypatch.setattr(TiffImagePlugin, "__warningregistry__", {}, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        logs.configure("info")
        for tag in range(0x200, 0x20A):
            assert images.load(_with_damaged_exif(tag), options).shape == (8, 8, 3)
    assert capfd.readouterr().err == ""
    assert TiffImagePlugin.__dict__["__warningregistry__"].keys() <= {"version"}


@pytest.mark.parametrize(
    ("changes", "logged"),
    [
        ({}, {"info", "warning", "error"}),
        ({"info": False}, {"warning", "error"}),
        ({"warning": False}, {"info", "error"}),
        ({"info": False, "warning": False, "error": False}, set()),
        ({"info": False, "verbose": 1}, {"debug", "warning", "error"}),
        ({"verbose": 1}, {"debug", "info", "warning", "error"}),
        ({"verbose": 2}, {"debug", "info", "warning", "error", "a library's debug"}),
    ],
)
def test_lines_of_the_levels_in_force_are_logged(changes: dict[str, bool], logged: set[str]) -> None:
    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.add(record.getMessage())

    seen: set[str] = set()
    handler, control, root = Kept(), logs.LogControl(), logging.getLogger()
    handler.addFilter(control)
    server, before = logging.getLogger("resonnx_server"), root.level
    root.addHandler(handler)
    try:
        control.change(**changes)
        for level in ("debug", "info", "warning", "error"):
            getattr(logging.getLogger("resonnx_server.some"), level)(level)
        logging.getLogger("a.library").debug("a library's debug")
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        server.setLevel(logging.NOTSET)
    assert seen == logged
