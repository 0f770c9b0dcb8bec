"""The memory that decoding is charged with is what it takes, at most: measured in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.runtime.pictures.headers import header
from resonnx_server.runtime.pictures.options import DEFAULT_FORMATS, PictureOptions, decoding_bytes, most_bytes

from .picture_files import ALL, file

MB = 1 << 20
RECIPE = ImageInput(
    width=224,
    height=224,
    resize=ImageInput.RESIZE_SHORT_SIDE_CROP,
    resize_short_side=256,
    filter=ImageInput.FILTER_BILINEAR,
)
ANY = PictureOptions(RECIPE, formats=ALL, exif_orientation="apply")
# 3 megapixels: enough that a page more or less tells nothing.
WIDTH, HEIGHT = 2000, 1500

_MEASURE = """
import io, json, sys
from pathlib import Path
from PIL import Image
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.errors import BadImage
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.options import PictureOptions

FORMATS = ("JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF", "AVIF")

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

def decode(content, scaling):
    try:
        images.load(content, PictureOptions(
            ImageInput(width=224, height=224, resize=2, resize_short_side=256, filter=1),
            jpeg_scaling=scaling, exif_orientation="apply", formats=FORMATS,
        ))
    except BadImage:
        pass

peaks = {}
for path in map(Path, sys.argv[1:]):
    content = path.read_bytes()
    small = io.BytesIO()
    with Image.open(path) as image:
        image.draft("RGB", (300, 200))
        image.resize((300, 200)).save(small, image.format)
    # What a format needs once: its plug-in, its code.
    decode(small.getvalue(), False)
    for scaling in (False, True)[: 1 + (path.suffix == ".jpg")]:
        Path("/proc/self/clear_refs").write_text("5")
        before = kilobytes("VmRSS")
        decode(content, scaling)
        peaks[path.name] = peaks.get(path.name, []) + [(kilobytes("VmHWM") - before) * 1024]
print(json.dumps(peaks))
"""


def _usual_files() -> dict[str, bytes]:
    soft = _soft()
    return {
        "plain.jpg": file(soft, "JPEG"),
        "progressive.jpg": file(soft, "JPEG", progressive=True),
        "plain.png": file(soft, "PNG", compress_level=1),
        "lossy.webp": file(soft, "WEBP", method=0),
    }


def _soft() -> Image.Image:
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).resize((WIDTH, HEIGHT))


def _all_files() -> dict[str, bytes]:
    soft = _soft()
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = soft.copy()
    alpha.putalpha(soft.convert("L"))
    palette = soft.quantize(64, method=Image.Quantize.FASTOCTREE)
    deep = Image.fromarray(np.asarray(soft.convert("L")).astype(np.uint16) * 257)
    cut = file(soft, "JPEG", progressive=True)
    return {
        "plain.jpg": file(soft, "JPEG", exif=exif),
        "4-4-4.jpg": file(soft, "JPEG", subsampling=0),
        "progressive.jpg": file(soft, "JPEG", progressive=True, exif=exif),
        "progressive 4-4-4.jpg": file(soft, "JPEG", progressive=True, subsampling=0),
        "progressive cmyk.jpg": file(soft.convert("CMYK"), "JPEG", progressive=True),
        "damaged.jpg": cut[: len(cut) // 2] + bytes(20) + cut[len(cut) // 2 :],
        "grey.jpg": file(soft.convert("L"), "JPEG"),
        "plain.png": file(soft, "PNG", compress_level=1, exif=exif),
        "alpha.png": file(alpha, "PNG", compress_level=1),
        "16-bit.png": file(deep, "PNG", compress_level=1),
        "moving.png": file(soft, "PNG", compress_level=1, save_all=True, append_images=[alpha], disposal=1),
        "lossy.webp": file(soft, "WEBP", method=0, exif=exif),
        "lossless.webp": file(soft, "WEBP", method=0, quality=0, lossless=True),
        "alpha.webp": file(alpha, "WEBP", method=0),
        "plain.gif": file(palette, "GIF"),
        "plain.bmp": file(soft, "BMP"),
        "palette.bmp": file(palette, "BMP"),
        "plain.tif": file(soft, "TIFF", exif=exif),
        "one strip.tif": file(soft, "TIFF", compression="tiff_lzw", tiffinfo={278: HEIGHT}),
        "jpeg.tif": file(soft, "TIFF", compression="jpeg"),
        "plain.avif": file(soft, "AVIF", speed=10, exif=exif),
        "alpha 4-4-4.avif": file(alpha, "AVIF", speed=10, subsampling="4:4:4"),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
@pytest.mark.parametrize("make", [_usual_files, pytest.param(_all_files, marks=pytest.mark.slow)])
def test_decoding_takes_no_more_than_is_charged_and_not_much_less(
    make: Callable[[], dict[str, bytes]], tmp_path: Path
) -> None:
    files = make()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-W", "ignore", "-c", _MEASURE, *(str(tmp_path / name) for name in files)]
    # What is freed goes back to the system, so that each peak is a picture's own.
    allocator = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "0"}
    run = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=110, env={**os.environ, **allocator}
    )
    failures = []
    for name, peaks in json.loads(run.stdout).items():
        for scaling, peak in zip((False, True), peaks, strict=False):
            options = PictureOptions(RECIPE, scaling, "apply", ALL)
            charged = decoding_bytes(header(files[name]), options)
            if not charged / 4 - 8 * MB <= peak <= charged + 2 * MB:
                failures.append(f"{name}, scaling {scaling}: took {peak / MB:.1f} MB, charged {charged / MB:.1f} MB")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("formats", [DEFAULT_FORMATS, ALL, ("JPEG",), ("GIF",)])
def test_the_largest_picture_of_any_allowed_format_fits_the_budget(formats: tuple[str, ...]) -> None:
    options = PictureOptions(RECIPE, formats=formats, max_pixels=8000 * 8000)
    worst = [
        told._replace(width=8000, height=8000, held_bytes=told.held_bytes * 64_000_000 // told.pixels)
        for told in map(header, _small_files().values())
        if told.format in formats
    ]
    assert worst
    for told in worst:
        assert decoding_bytes(told, options) <= most_bytes(options)


def _small_files() -> dict[str, bytes]:
    picture = Image.new("RGB", (400, 400))
    return {
        "cmyk": file(picture.convert("CMYK"), "JPEG", progressive=True),
        **{format: file(picture, format) for format in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")},
    }


def test_a_reduced_picture_is_charged_with_what_is_left_of_it() -> None:
    content = file(Image.new("RGB", (1600, 1200)), "JPEG")
    recipe = ImageInput(width=40, height=40, resize=ImageInput.RESIZE_STRETCH, filter=ImageInput.FILTER_BILINEAR)
    whole = decoding_bytes(header(content), PictureOptions(recipe))
    reduced = decoding_bytes(header(content), PictureOptions(recipe, jpeg_scaling=True))
    assert whole > 16 * MB
    assert reduced < 2 * MB
