"""What arrived in a picture's place is named."""

import base64
import gzip
import io
import json
import time
import timeit
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.errors import BadImage
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.file_kinds import kind_of
from resonnx_server.runtime.pictures.options import PictureOptions

from .picture_files import PHOTO, file

JPEG = file(PHOTO, "JPEG")


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("cat.jpg", JPEG)
    return buffer.getvalue()


def _array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, PHOTO)
    return buffer.getvalue()


def _boxes(brand: bytes) -> bytes:
    return b"\x00\x00\x00\x18ftyp" + brand + bytes(8) + b"mif1" + bytes(200)


ARRIVED = {
    "an empty file": b"",
    "an HTML page": b"\r\n<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "an XML document": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "an SVG drawing": b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>",
    "a PDF document": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
    "a HEIC picture": _boxes(b"heic"),
    "an MP4 video": _boxes(b"isom"),
    "a QuickTime video": _boxes(b"qt  "),
    "a JPEG XL picture": b"\xff\x0a" + bytes(range(60)),
    "a JPEG 2000 picture": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(60),
    "an ICO icon": file(PHOTO, "ICO"),
    "a BigTIFF picture": b"II+\x00\x08\x00" + bytes(60),
    "base64 text of a JPEG picture": base64.b64encode(JPEG),
    "base64 text of a PNG picture": base64.encodebytes(file(PHOTO, "PNG")),
    "a data URI, not the bytes": b"data:image/jpeg;base64," + base64.b64encode(JPEG),
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 81653\n",
    "gzip data": gzip.compress(JPEG),
    "a ZIP archive": _zip(),
    "JSON": json.dumps({"error": "not found"}).encode(),
    "an address": b"https://example.com/cat.jpg",
    "a NumPy array": _array(),
    "hexadecimal text": JPEG.hex().encode(),
    "a multipart form": b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\n' + JPEG,
    "an HTTP answer": b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n" + JPEG,
    "plain text that begins 'Not Found'": b"Not Found",
    "UTF-16 text": "Nicht gefunden".encode("utf-16"),
    "zero bytes": bytes(4000),
    r"a JPEG picture behind 3 other bytes (b'\xef\xbb\xbf')": b"\xef\xbb\xbf" + JPEG,
    r"a JPEG picture behind 2 other bytes (b'\r\n')": b"\r\n" + JPEG,
    r"6 bytes that begin b'\x01\x02\xfe\xfd\x80\x81'": b"\x01\x02\xfe\xfd\x80\x81",
}


@pytest.mark.parametrize("name", ARRIVED)
def test_the_refusal_names_what_arrived(name: str) -> None:
    options = PictureOptions(ImageInput(width=8, height=8, resize=1, filter=1))
    with pytest.raises(BadImage) as refused:
        images.load(ARRIVED[name], options, "image.encoded")
    message = refused.value.message
    assert message.startswith(f"image.encoded: {name}"), message
    assert message.endswith("; accepted formats are JPEG, PNG, WebP, BMP and GIF")


@given(st.one_of(st.binary(max_size=300), st.text(max_size=200).map(str.encode)))
def test_names_are_short_and_of_one_line(content: bytes) -> None:
    name = kind_of(content)
    assert name
    assert len(name) <= 200
    assert name.isprintable()


def test_only_the_beginning_is_looked_at() -> None:
    assert kind_of(b"QUJD" * (16 << 20)) == "base64 text"


@pytest.mark.parametrize("end", [b"!", b"", b"=!"])
@pytest.mark.parametrize("middle", [b"\n", b" ", b"A", b"="])
def test_names_are_found_in_little_time(middle: bytes, end: bytes) -> None:
    """On the event loop: text that is almost of a kind must not be tried in every possible way."""
    content = b"A" * 16 + middle * (4080 - len(end)) + end
    assert min(timeit.repeat(lambda: kind_of(content), timer=time.thread_time, number=1, repeat=3)) < 0.02
