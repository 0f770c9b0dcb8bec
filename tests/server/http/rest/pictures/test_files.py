"""The files of multipart/form-data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.errors import InvalidInput
from resonnx_server.http.rest.pictures import files
from resonnx_server.http.rest.pictures.files import files_of
from resonnx_server.protocol.pieces import at_once

from .test_picture_pages import form

_OPTION = b'--x\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n3\r\n--x--'
_NAMES = st.text("abc .png", min_size=1, max_size=8).map(lambda text: text.strip() or "x")
# With pieces of delimiters in it.
_CONTENTS = st.lists(st.sampled_from([b"\r\n", b"--", b"-", b"x", b"xyz", b"\0", b"\xff"]), max_size=20).map(b"".join)


@given(st.lists(st.tuples(_NAMES, _CONTENTS.filter(lambda it: b"\r\n--xyz" not in it)), min_size=1, max_size=5))
def test_files_are_what_was_sent(parts: list[tuple[str, bytes]]) -> None:
    body, kind = form(*parts)
    assert [tuple(each) for each in at_once(files_of(body, kind))] == parts
    assert [tuple(each) for each in at_once(files_of(b"preamble\r\n" + body + b"epilogue", kind))] == parts


@given(st.data())
def test_a_form_that_breaks_off_is_refused(data: st.DataObject) -> None:
    body, kind = form(("a", b"content"), ("b", b"more"))
    length = data.draw(st.integers(0, len(body) - len("--\r\n") - 1))
    with pytest.raises(InvalidInput):
        at_once(files_of(body[:length], kind))


def test_large_files_are_searched_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PIECE_BYTES", 3)
    body, kind = form(("a", b"\r\n--xy" * 50), ("b", b""))
    assert [each.content for each in at_once(files_of(body, kind))] == [b"\r\n--xy" * 50, b""]


@pytest.mark.parametrize(
    ("body", "kind", "error"),
    [
        (b"", "multipart/form-data", "without a boundary"),
        (b"--x--", "multipart/form-data; boundary=x", "without a file"),
        (
            b'--x\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n3\r\n--x--',
            "multipart/form-data; boundary=x",
            "query",
        ),
        (b"--x\r\n" + b"a" * 5000 + b"\r\n\r\n\r\n--x--", "multipart/form-data; boundary=x", "too long heads"),
        (form(*[("a", b"")] * 257)[0], "multipart/form-data; boundary=xyz", "more than 256 files"),
    ],
)
def test_what_is_no_form_of_files(body: bytes, kind: str, error: str) -> None:
    with pytest.raises(InvalidInput, match=error):
        at_once(files_of(body, kind))


@pytest.mark.parametrize("codec", ["idna", "undefined", "a\0b"])
def test_what_is_written_in_a_codec_that_decodes_no_bytes_is_no_form_of_files(codec: str) -> None:
    body, kind = form(("a", b"content"))
    with pytest.raises(InvalidInput, match=r"^Content-Type: its boundary"):
        at_once(files_of(body, f"multipart/form-data; boundary*={codec}''xyz"))
    named = body.replace(b'filename="a"', f"filename*={codec}''a".encode())
    with pytest.raises(InvalidInput, match=r"^parts\[0\]: its filename\*"):
        at_once(files_of(named, kind))


@pytest.mark.parametrize("name", ["unicode_escape''\\ud800", "utf-7''+2AA-"])
def test_the_name_of_a_file_can_be_returned(name: str) -> None:
    body, kind = form(("a", b"content"))
    (file,) = at_once(files_of(body.replace(b'filename="a"', f"filename*={name}".encode()), kind))
    assert (file.name, file.content) == ("?", b"content")
