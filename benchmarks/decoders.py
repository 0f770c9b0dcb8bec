"""Compares JPEG decoders: ms on one core, pixels against the training preprocessing, and files that each refuses.

    python benchmarks/decoders.py [--rounds 9] [--json FILE]

Measured are the server's own function, simplejpeg in its settings, Pillow (the recipe's), and those of OpenCV,
imagecodecs and PyTurboJPEG that are installed (pip install opencv-python-headless imagecodecs PyTurboJPEG; the last
one needs libturbojpeg). All take turns on each kind of file, round after round, with huge pages, as the server
has them. Times are processor time, so that other work on the machine counts little. "KIND to 1/N" is decoding and
resizing pictures of which 1/N is 3.5 times as large as needed: by decoding the whole, by the server's `jpeg_scaling`,
and by Pillow's draft mode.
"""

import argparse
import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from load.server_process import HUGE_PAGES
from pictures import jpeg_files
from pictures.jpeg_decoders import SERVER, by_pillow, decoders, versions
from PIL import Image
from reports.rounds import Rounds
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.errors import BadImage
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.options import LEAST_REDUCED, PictureOptions
from rich.console import Console
from rich.table import Table

_SECONDS: Final = 0.05
_WHOLE: Final = "whole"

Decode = Callable[[bytes], Any]


@dataclass(frozen=True)
class Difference:
    """How far pixels are off, of 255: at most and on average; and the share of values that differ."""

    most: int
    mean: float
    share: float

    def __str__(self) -> str:
        return f"{self.most}, {self.mean:.2g}, {self.share:.2%}" if self.most else "0"


def difference(decode: Decode, expected: Decode, files: Sequence[bytes]) -> Difference:
    """Compare two ways of decoding over some files."""
    pairs = [(np.asarray(decode(file)), np.asarray(expected(file))) for file in files]
    off = np.concatenate([np.abs(found.astype(np.int16) - right).ravel() for found, right in pairs])
    return Difference(int(off.max()), float(off.mean()), float((off > 0).mean()))


def judged(decode: Decode, file: bytes) -> str:
    """Return the outcome of decoding an unusual file, compared with Pillow, as text."""
    if not _takes(decode, file):
        return "refused"
    if not _takes(by_pillow, file):
        return "decoded"
    return f"off by {off.most}" if (off := difference(decode, by_pillow, [file])).most else "as Pillow"


def _takes(decode: Decode, file: bytes) -> bool:
    try:
        np.asarray(decode(file))
    # TypeError: decoded to 16 bits, of which no image can be made.
    except (BadImage, ValueError, RuntimeError, OSError, TypeError):
        return False
    return True


def scaled(files: Sequence[bytes], divisor: int) -> dict[str, Decode]:
    """Return ways of decoding and resizing pictures of one size, of which 1/`divisor` is just large enough."""
    width, height = Image.open(io.BytesIO(files[0])).size
    side = int(min(width, height) / divisor / LEAST_REDUCED)
    recipe = ImageInput(
        width=side,
        height=side,
        resize=ImageInput.RESIZE_SHORT_SIDE_CROP,
        resize_short_side=side,
        filter=ImageInput.FILTER_BILINEAR,
    )

    def draft(file: bytes) -> images.Pixels:
        image = Image.open(io.BytesIO(file))
        image.draft("RGB", (width // divisor, height // divisor))
        shown = (0.0, 0.0, width / divisor, height / divisor)
        return images.fit(image.convert("RGB"), recipe, size=(width, height), shown=shown)

    return {
        _WHOLE: partial(images.load, options=PictureOptions(recipe)),
        "scaled": partial(images.load, options=PictureOptions(recipe, jpeg_scaling=True)),
        "Pillow's draft": draft,
    }


def ms_each(decode: Decode, files: Sequence[bytes]) -> float:
    """Return the processor time to decode a file, in ms."""
    done = 0
    start = now = time.process_time()
    while now < start + _SECONDS:
        for file in files:
            decode(file)
        done += len(files)
        now = time.process_time()
    return (now - start) * 1e3 / done


def show(title: str, columns: Sequence[str], rows: dict[str, list[str]]) -> None:
    """Print a table with a row for each kind of file."""
    table = Table("", *columns, title=title, title_justify="left")
    for kind, cells in rows.items():
        table.add_row(kind, *cells)
    Console(width=160).print(table)


def main() -> int:
    """Measure; print and write. Returns 1 if the server's pixels are not the recipe's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write every round's figures")
    given = parser.parse_args()
    if "GLIBC_TUNABLES" not in os.environ:
        # Without huge pages the way in which each allocates large pictures decides.
        os.execve(sys.executable, sys.orig_argv, {**HUGE_PAGES, **os.environ})
    files, found = jpeg_files.ordinary(), decoders()
    off = {kind: {name: difference(decode, by_pillow, files[kind]) for name, decode in found.items()} for kind in files}
    refusals = {
        kind: {name: judged(decode, file) for name, decode in found.items()}
        for kind, file in jpeg_files.unusual().items()
    }
    work = {(kind, name): (decode, files[kind]) for kind in files for name, decode in found.items()}
    against: dict[tuple[str, ...], tuple[str, ...]] = {row: (row[0], SERVER) for row in work}
    for kind in ("photographs", "12 megapixels"):
        for divisor in (2, 4, 8):
            ways = scaled(files[kind], divisor)
            title = f"{kind} to 1/{divisor}"
            off[title] = {name: difference(way, ways[_WHOLE], files[kind]) for name, way in ways.items()}
            work |= {(title, name): (way, files[kind]) for name, way in ways.items()}
            against |= {(title, name): (title, _WHOLE) for name in ways}
    figures = Rounds("files", "decoder, ms")
    for _ in range(given.rounds):
        for row, (decode, contents) in work.items():
            figures.add(*row, value=ms_each(decode, contents))
    figures.show(against)
    scale = "off by at most, on average, share of values"
    show(f"{scale}, of Pillow's", list(found), {kind: [str(value) for value in off[kind].values()] for kind in files})
    rows = {kind: [str(value) for value in values.values()] for kind, values in off.items() if kind not in files}
    show(f"{scale}, of decoding the whole", list(ways), rows)
    show("unusual files", list(found), {kind: list(values.values()) for kind, values in refusals.items()})
    if given.json:
        written = {kind: {name: asdict(value) for name, value in values.items()} for kind, values in off.items()}
        figures.write(given.json, versions=versions(), differences=written, unusual=refusals)
    return int(any(off[kind][SERVER].most for kind in files))


if __name__ == "__main__":
    sys.exit(main())
