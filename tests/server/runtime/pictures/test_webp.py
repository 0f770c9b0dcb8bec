"""WebP files are decoded as Pillow decodes them, and nobody waits for the interpreter meanwhile."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, WebPImagePlugin
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.errors import BadImage
from resonnx_server.runtime.pictures import images, webp
from resonnx_server.runtime.pictures.options import PictureOptions

from ...holding import longest_hold_s
from .picture_files import PHOTO

RNG = np.random.default_rng(5)
PLAIN = Image.fromarray(PHOTO)
ALPHA = PLAIN.convert("RGBA")
ALPHA.putalpha(Image.fromarray(RNG.integers(0, 256, PHOTO.shape[:2], np.uint8)))
# Its first frame is smaller than the picture.
PART = Image.new("RGBA", PLAIN.size)
PART.paste(ALPHA.crop((0, 0, 31, 30)), (20, 34))
STRETCH = ImageInput(width=64, height=64, resize=ImageInput.RESIZE_STRETCH, filter=ImageInput.FILTER_BILINEAR)


def _file(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", **options)
    return buffer.getvalue()


FILES = {
    "lossy": _file(PLAIN, quality=40),
    "lossless": _file(PLAIN, lossless=True),
    "lossy with alpha": _file(ALPHA),
    "lossless with alpha": _file(ALPHA, lossless=True, exact=True),
    "moving": _file(PLAIN, save_all=True, append_images=[ALPHA.rotate(90)]),
    "moving in part": _file(PART, save_all=True, append_images=[ALPHA], lossless=True),
    "moving in part, with losses": _file(PART, save_all=True, append_images=[ALPHA]),
    "one pixel": _file(Image.new("RGB", (1, 1), (9, 8, 7)), lossless=True),
}


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_pillows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with WebPImagePlugin.WebPImageFile(io.BytesIO(FILES[name])) as opened:
        expected = np.asarray(opened.convert("RGB"))
    decoded = webp.decode_webp(FILES[name], expected.shape[1::-1], "image")
    assert decoded is not None
    np.testing.assert_array_equal(np.asarray(decoded), expected)
    # Where Pillow has the library inside itself, say.
    monkeypatch.setattr(webp, "_library", lambda: None)
    np.testing.assert_array_equal(np.asarray(images.decode(FILES[name])), expected)


@pytest.mark.parametrize("name", [name for name in FILES if name != "one pixel"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_what_breaks_off_is_refused(name: str, share: float) -> None:
    content = FILES[name]
    with pytest.raises(BadImage, match="damaged or incomplete"):
        images.load(content[: int(share * len(content))], PictureOptions(STRETCH))


def test_many_pixels_in_few_bytes_keep_the_interpreter_from_nobody() -> None:
    content = _file(Image.new("RGB", (8000, 8000), (3, 4, 5)), lossless=True, quality=0, method=0)
    assert len(content) < 100
    assert min(longest_hold_s(lambda: images.load(content, PictureOptions(STRETCH))) for _ in range(3)) < 0.05
