"""JPEG files of all kinds that decoders treat differently: ordinary ones to time, and unusual ones."""

import base64
import io
import tempfile
from importlib.resources import files as packaged
from pathlib import Path
from typing import Final

import numpy as np
from pictures.photographs import picture, write_pictures
from PIL import Image

# 16x16 pixels, written by libjpeg-turbo's jpegtran and by imagecodecs: Pillow writes neither kind.
_ARITHMETIC: Final = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19iZ2hnPk1xeXBk"
    "eFxlZ2P/2wBDARESEhgVGC8aGi9jQjhCY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2P/yQARCAAQABAD"
    "ASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwDLwhLVeVHlbfvDfXF6DvgSaRtg57/Hdmv/2Q=="
)
_12_BITS: Final = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19iZ2hnPk1xeXBk"
    "eFxlZ2P/wQALDAAQABABAREA/8QAFQABAQAAAAAAAAAAAAAAAAAACgD/xAAZEAABBQAAAAAAAAAAAAAAAAAIACU1QlL/2gAIAQEAAD8AOMFAdR7b"
    "miQQFAdR7bmigoDqPbc0SCAoDqPbc0X/2Q=="
)


def ordinary() -> dict[str, list[bytes]]:
    """Return files by kind; their times and pixels are compared."""
    rng = np.random.default_rng(1)
    large, small = picture(rng, 4000, 3000), picture(rng, 640, 480)
    with tempfile.TemporaryDirectory() as folder:
        usual = [file.read_bytes() for file in write_pictures(Path(folder), 4)]
    return {
        "640x480": usual,
        "12 megapixels": [_file(large, quality=85)],
        "progressive": [_file(small, quality=65, progressive=True)],
        "grey": [_file(small.convert("L"), quality=65)],
        "4:4:4": [_file(small, quality=90, subsampling=0)],
        "4:2:2": [_file(small, quality=90, subsampling=1)],
        "637x479": [_file(small.crop((0, 0, 637, 479)), quality=65)],
        "photographs": photographs(),
    }


def photographs() -> list[bytes]:
    """Return the two real photographs of scikit-learn, 640x427."""
    folder = packaged("sklearn.datasets") / "images"
    return [(folder / name).read_bytes() for name in ("china.jpg", "flower.jpg")]


def unusual() -> dict[str, bytes]:
    """Return a file of each kind that some decoders refuse."""
    small = picture(np.random.default_rng(2), 640, 480)
    whole = _file(small, quality=65)
    scan = bytearray(whole)
    # 0xff, and what is no marker that may stand in a scan: the next image's height.
    scan[len(scan) // 2 : len(scan) // 2 + 2] = b"\xff\xdc"
    return {
        "CMYK": _file(small.convert("CMYK"), quality=65),
        "arithmetic coding": base64.b64decode(_ARITHMETIC),
        "12 bits": base64.b64decode(_12_BITS),
        "cut at half": whole[: len(whole) // 2],
        "without its end": whole[:-2],
        "damaged scan": bytes(scan),
        "bytes behind its end": whole + bytes(100),
    }


def _file(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()
