"""The memory that an animated picture is charged with is what its decoding takes, at most: in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .clip_files import animated

MB = 1 << 20

_MEASURE = """
import asyncio, json, sys
from pathlib import Path
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.preprocessing.clips.decode import ClipDecoder
from resonnx_server.preprocessing.clips.sampling import Sampling
from resonnx_server.preprocessing.decode import Decoder
from resonnx_server.runtime.pictures.options import PictureOptions

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

async def main():
    decoder = Decoder(1)
    clips, peaks = ClipDecoder(decoder), {}
    options = PictureOptions(ImageInput(width=224, height=224, resize=2, resize_short_side=256, filter=1))
    for path in map(Path, sys.argv[1:]):
        plan = await clips.plan(path.read_bytes(), options, Sampling(), 100, "clip")
        Path("/proc/self/clear_refs").write_text("5")
        before = kilobytes("VmRSS")
        await clips.load(plan, 1)
        if "warm" not in path.name:
            peaks[path.name] = [(kilobytes("VmHWM") - before) * 1024, plan.work.size]
    print(json.dumps(peaks))
    await decoder.close(10)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_decoding_takes_no_more_than_is_charged_and_not_much_less(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)

    def pictures(count: int, size: tuple[int, int] = (1600, 1200), alpha: int = 255) -> list[Image.Image]:
        tiles = [Image.fromarray(rng.integers(0, 256, (6, 8, 4), np.uint8)) for _ in range(count)]
        large = [tile.resize(size, Image.Resampling.NEAREST) for tile in tiles]
        for each in large[1:]:
            each.putalpha(Image.linear_gradient("L").resize(size) if alpha < 255 else 255)
        return large

    small = pictures(3, (300, 200))
    files = {
        "warm.gif": animated(small, "GIF"),
        "warm.webp": animated(small, "WEBP"),
        "kept.gif": animated(pictures(3), "GIF", disposal=1),
        "restored.gif": animated(pictures(3, alpha=0), "GIF", disposal=2),
        "previous.gif": animated(pictures(4, alpha=0), "GIF", disposal=3),
        "lossless.webp": animated(pictures(3, alpha=0), "WEBP", method=0, quality=0),
        "lossy.webp": animated(pictures(3, alpha=0), "WEBP", lossless=False, method=0),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-c", _MEASURE, *(str(tmp_path / name) for name in files)]
    # What is freed goes back to the system, so that each peak is a clip's own.
    allocator = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=110, env={**os.environ, **allocator}
    )
    peaks = json.loads(done.stdout)
    assert len(peaks) == 5
    told = {name: f"took {peak / MB:.1f} MB, charged {size / MB:.1f} MB" for name, (peak, size) in peaks.items()}
    assert all(size / 4 - 8 * MB <= peak <= size + 2 * MB for peak, size in peaks.values()), told
