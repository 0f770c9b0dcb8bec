"""Many large pictures at once wait for memory: real processes do not grow beyond their budget."""

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from PIL import Image
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc
from resonnx_server.config import Settings
from resonnx_server.parts import Parts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

MB = 1 << 20
COUNT = 16
# Interpreter, threads' stacks, what the allocator keeps.
MARGIN = 96 * MB

_DECODE = """
import asyncio, sys
from pathlib import Path
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.preprocessing.decode import Decoder
from resonnx_server.runtime.pictures.options import PictureOptions

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

async def main(path, threads, budget, small):
    options = PictureOptions(ImageInput(width=224, height=224, resize=2, resize_short_side=256, filter=1))
    content = Path(path).read_bytes()
    decoder = Decoder(threads, budget)
    await decoder.load(Path(small).read_bytes(), options, "small", 4)
    before = kilobytes("VmRSS")
    await asyncio.gather(*(decoder.load(content, options, "large", 4) for _ in range(16)))
    print((kilobytes("VmHWM") - before) * 1024)
    await decoder.close(10)

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
"""


def _large(megapixels: int, **options: object) -> bytes:
    width = int((megapixels * 1e6 * 4 / 3) ** 0.5) & ~15
    buffer = io.BytesIO()
    soft = Image.effect_noise((64, 48), 60).convert("RGB").resize((width, width * 3 // 4))
    soft.save(buffer, "JPEG", quality=60, **options)
    return buffer.getvalue()


def _growth(folder: Path, content: bytes, threads: int, budget: int) -> int:
    (folder / "large.jpg").write_bytes(content)
    (folder / "small.jpg").write_bytes(_large(1))
    command = [sys.executable, "-c", _DECODE, str(folder / "large.jpg"), str(threads), str(budget)]
    run = subprocess.run([*command, str(folder / "small.jpg")], check=True, capture_output=True, text=True, timeout=110)
    return int(run.stdout)


def test_many_progressive_pictures_at_once_stay_within_the_budget(tmp_path: Path) -> None:
    """Of 8 megapixels, which take 24 MB each even if they are decoded at 1/8."""
    content = _large(8, progressive=True)
    assert _growth(tmp_path, content, threads=COUNT, budget=60 * MB) < 60 * MB + MARGIN
    assert _growth(tmp_path, content, threads=COUNT, budget=10_000 * MB) > 60 * MB + MARGIN, "else nothing is shown"


@pytest.mark.slow
@pytest.mark.parametrize("subsampling", [0, 2])
def test_sixteen_progressive_pictures_of_48_megapixels(subsampling: int, tmp_path: Path) -> None:
    content = _large(48, progressive=True, subsampling=subsampling)
    assert _growth(tmp_path, content, threads=COUNT, budget=320 * MB) < 320 * MB + MARGIN


def _resident(process: int, name: str) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


@pytest.mark.slow
def test_a_server_stays_within_its_budget(start_server, demo_repository: Path) -> None:
    """The budget of 50 megapixels of JPEG; sixteen callers with progressive files of 48."""
    limits = {"RESONNX_MAX_IMAGE_PIXELS": "50000000", "RESONNX_FORMATS": "JPEG,PNG"}
    content = _large(48, progressive=True, subsampling=0)
    small = _large(1)
    with (
        start_server(demo_repository, environment=limits) as server,
        grpc.insecure_channel(server.grpc, [("grpc.max_send_message_length", 1 << 30)]) as channel,
        ThreadPoolExecutor(COUNT) as callers,
    ):
        vision = vision_pb2_grpc.VisionStub(channel)

        def classify(file: bytes) -> vision_pb2.ClassifyResponse:
            image = vision_pb2.Image(encoded=file)
            return vision.Classify(vision_pb2.ClassifyRequest(model="digits", image=image), timeout=100)

        classify(small)
        idle = _resident(server.process.pid, "VmRSS")
        answers = list(callers.map(classify, [content] * COUNT))
        assert all(len(answer.predictions) for answer in answers)
        budget = 16 * 50_000_000
        in_flight = COUNT * len(content)
        assert _resident(server.process.pid, "VmHWM") < idle + budget + in_flight + MARGIN


def test_the_servers_budget_is_what_its_largest_picture_takes(tmp_path: Path) -> None:
    def budget(**settings: object) -> int:
        made = Parts.of(Settings(repository=tmp_path, cache_dir=Path("none"), **settings))
        return made.decoder.max_bytes

    assert budget(formats=("JPEG",), max_image_pixels=1_000_000) == pytest.approx(16_000_000, rel=0.1)
    assert budget(formats=("JPEG", "WebP"), max_image_pixels=1_000_000) == pytest.approx(18_000_000, rel=0.1)
    assert budget() == pytest.approx(18 * (1 << 26), rel=0.01)


_KEEP = """
import asyncio, io, threading
from PIL import Image
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.preprocessing.decode import Decoder
from resonnx_server.runtime.pictures.options import PictureOptions

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def encoded(side):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()

async def main():
    options = PictureOptions(ImageInput(width=8, height=8, resize=1, filter=1))
    content, small = encoded(6000), encoded(300)
    before = resident()
    # One after the other, as if the budget had room for one.
    for _ in range(3):
        decoder = Decoder(1)
        for _ in range(2):
            await decoder.load(content, options, "large", 4)
            await decoder.load(small, options, "small", 4)
    print(resident() - before)

asyncio.run(main())
"""


def test_memory_of_large_pictures_goes_back_to_the_system() -> None:
    """Or each thread would keep as much as its largest picture took, whatever the budget says: here 3 times 140 MB."""
    run = subprocess.run([sys.executable, "-c", _KEEP], capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 60 * MB
