"""Picture files for tests: of any format and mode that Pillow writes, and some that it does not."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

ALL = ("JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF", "AVIF")
RNG = np.random.default_rng(3)
SMALL = RNG.integers(0, 256, (6, 8, 3), np.uint8)
PHOTO = np.asarray(Image.fromarray(SMALL).resize((131, 97), Image.Resampling.BICUBIC))


def file(image: Image.Image | np.ndarray, format: str, **options: object) -> bytes:
    """Return a picture as a file of a format as Pillow calls it."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format, **options)
    return buffer.getvalue()


def oriented(value: int, image: Image.Image | np.ndarray = PHOTO, format: str = "JPEG", **options: object) -> bytes:
    """Return a picture file whose EXIF orientation is `value`."""
    exif = Image.Exif()
    exif[0x0112] = value
    return file(image, format, exif=exif, **options)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """Write a PNG file as its specification has it."""
    stride = len(rows) // height
    filtered = b"".join(b"\x00" + rows[i * stride : (i + 1) * stride] for i in range(height))
    chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))]
    chunks += [chunk(*each) for each in extra]
    chunks += [chunk(b"IDAT", zlib.compress(filtered)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def photograph(width: int, height: int, seed: int = 0, detail: float = 6.0) -> np.ndarray:
    """Make pixels uint8 [height,width,3] with what photographs have: soft shades, edges, texture and grain."""
    rng = np.random.default_rng(seed)
    made = np.full((height, width, 3), 128.0, np.float32)
    # Half as much of each octave as of the one before, as in nature.
    for octave in range(1, 9):
        across, down = 2**octave, max(2, 2**octave * height // width)
        if across >= width or down >= height:
            break
        coarse = Image.fromarray(rng.integers(0, 256, (down, across, 3), np.uint8))
        made += (
            (np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32) - 128) * 0.9**octave / 2
        )
    # Things in front: sharp edges.
    for _ in range(12):
        x, y = rng.integers(0, width), rng.integers(0, height)
        made[y : y + height // 7, x : x + width // 9] += rng.integers(-90, 90, 3)
    made += rng.normal(0, detail, (height, width, 1)).astype(np.float32)
    return made.clip(0, 255).astype(np.uint8)
