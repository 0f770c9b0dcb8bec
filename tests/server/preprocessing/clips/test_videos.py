"""MP4 and WebM: the frames of the rule as PyAV decodes them, in a child process within limits."""

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from resonnx_server.errors import BadClip, ClipTooCostly, NotSupported
from resonnx_server.preprocessing.clips.limits import ClipLimits, TimeLimit
from resonnx_server.preprocessing.clips.sampling import Rule, Sampling
from resonnx_server.preprocessing.clips.video import containers, process, reading
from resonnx_server.preprocessing.clips.video.process import VideoProcess
from resonnx_server.runtime.pictures import images

from .clip_files import OPTIONS, RECIPE, moving
from .test_animations import ALL, read
from .video_files import changed, frames_of, noise, video

SIZE = (96, 80)
PICTURES = moving(10, SIZE)
MP4 = video(PICTURES)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[VideoProcess]]:
    """The child processes that a test starts, none of which is left."""
    made: list[VideoProcess] = []
    begin = VideoProcess.__init__

    def noted(self: VideoProcess, *arguments: object) -> None:
        begin(self, *arguments)
        made.append(self)

    monkeypatch.setattr(VideoProcess, "__init__", noted)
    yield made
    for each in made:
        with pytest.raises(ProcessLookupError):
            os.kill(each.pid, 0)


@pytest.mark.parametrize(
    ("format", "codec"),
    [("mp4", "libx264"), ("webm", "libvpx-vp9")]
    + [
        pytest.param(*each, marks=pytest.mark.slow)
        for each in (("mp4", "libx265"), ("webm", "libvpx"), ("webm", "libsvtav1"), ("mp4", "libsvtav1"))
    ],
)
async def test_frames_are_those_of_pyav_resized_as_pictures(
    format: str, codec: str, started: list[VideoProcess]
) -> None:
    encoded = video(PICTURES, format, codec)
    assert containers.read(encoded)[:3] == ("MP4" if format == "mp4" else "WebM", *SIZE)
    clip = await read(encoded, Sampling(Rule.TIME, frames_per_second=10))
    all_frames = frames_of(encoded)
    np.testing.assert_array_equal(clip.frames, [images.fit(all_frames[i], RECIPE) for i in (0, 3, 5, 8)])
    assert clip.times_s == pytest.approx([0.0, 0.12, 0.2, 0.32])
    assert clip.count == len(all_frames) == 10
    # One that reads the packets, and one that decodes.
    assert len(started) == 2


async def test_hidden_frames_of_vp8_are_none() -> None:
    def hide(number: int, content: bytearray, is_key: bool) -> bytearray:
        content[0] &= 0xFF ^ (0x10 if number in (4, 9) else 0)
        return content

    encoded = changed(video(PICTURES, "webm", "libvpx"), "webm", hide)
    clip, shown = await read(encoded), frames_of(encoded)
    assert clip.count == len(shown) == 8
    np.testing.assert_array_equal(clip.frames, [images.fit(each, RECIPE) for each in shown])
    assert clip.times_s == pytest.approx([0, 0.04, 0.08, 0.12, 0.2, 0.24, 0.28, 0.32])


async def test_the_next_frame_stands_for_those_that_a_decoder_leaves_out() -> None:
    """A recording that was cut: frames before its first key frame in time need what the file does not have."""
    keys = 0

    def cut(number: int, content: bytearray, is_key: bool) -> bytearray | None:
        nonlocal keys
        keys += is_key
        return content if keys > 1 else None

    options = {"x265-params": "open-gop=1:keyint=8:min-keyint=8:scenecut=0:bframes=3:b-adapt=0:log-level=none"}
    encoded = changed(video(moving(20, SIZE), "matroska", "libx265", **options), "matroska", cut)
    shown = [images.fit(each, RECIPE) for each in frames_of(encoded)]
    clip = await read(encoded)
    left_out = clip.count - len(shown)
    assert left_out > 0
    np.testing.assert_array_equal(clip.frames, [shown[0]] * left_out + shown)


async def test_a_turned_video_is_upright_where_the_model_has_it_so() -> None:
    upright = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    # As phones write it that are held upright: shown turned clockwise by 90 degrees.
    turned = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    place = MP4.rindex(struct.pack(">9i", *upright))
    encoded = MP4[:place] + struct.pack(">9i", *turned) + MP4[place + 36 :]
    frame = frames_of(MP4)[0]
    clip = await read(encoded, Sampling(Rule.UNIFORM, n=20), options=replace(OPTIONS, exif_orientation="apply"))
    expected = images.fit(frame.transpose(Image.Transpose.ROTATE_270), RECIPE)
    np.testing.assert_array_equal(clip.frames[0], expected)
    as_stored = await read(encoded)
    np.testing.assert_array_equal(as_stored.frames[0], images.fit(frame, RECIPE))


@pytest.mark.parametrize(
    ("encoded", "sampling", "message"),
    [
        (MP4, ALL, "clip: 10 frames after sampling (all); the model reads at most 5"),
        (video(moving(21, SIZE)), ALL, "clip: 21 frames or more; a clip has at most 20 before sampling"),
        (video(moving(21, SIZE), "webm"), ALL, "clip: it has more frames than a clip may have before sampling"),
        (video(moving(2, (104, 80))), ALL, "clip: frames of 104x80 are 8320 pixels each, more than 8000"),
        (video(moving(12, SIZE), "webm"), Sampling(Rule.EVERY, n=11), "clip: 12 frames of 96x80 are 92160 pixels"),
        (video(PICTURES, "mp4", "mpeg4"), ALL, "clip: its codec is 'mpeg4'; accepted are H.264, HEVC, VP8, VP9"),
        (video(PICTURES, "matroska", "ffv1"), ALL, "clip: its codec is 'ffv1'"),
        (MP4[:-2000], ALL, "clip: an MP4 video, and its header is damaged"),
    ],
)
async def test_what_is_over_a_limit_or_of_another_codec_is_refused(
    encoded: bytes, sampling: Sampling, message: str
) -> None:
    limits = ClipLimits(max_frames=20, max_frame_pixels=8_000, max_pixels=90_000)
    with pytest.raises(BadClip) as refused:
        await read(encoded, sampling, limits=limits, most=5)
    assert refused.value.message.startswith(message)


async def test_memory_and_time_of_the_child_are_limited(
    monkeypatch: pytest.MonkeyPatch, started: list[VideoProcess]
) -> None:
    encoded = video(noise(3, (640, 480)), preset="ultrafast")
    monkeypatch.setattr(reading, "_BYTES_A_PIXEL", 1)
    monkeypatch.setattr(reading, "_BASE_BYTES", 0)
    with pytest.raises((ClipTooCostly, BadClip), match=r"bytes of memory to decode|ended without an answer"):
        await read(encoded)
    monkeypatch.undo()
    with pytest.raises(ClipTooCostly, match=r"clip: it takes longer than 0\.01 s to decode"):
        await read(encoded, limits=ClipLimits(max_decode_s=0.01))


def test_the_child_opens_nothing() -> None:
    """Its limits, then an attempt at files, sockets and pipes: EMFILE."""
    code = (
        "import os, socket, sys\n"
        f"sys.path.append({os.path.dirname(process.child.__file__)!r})\n"
        "import child\n"
        "child._limit(1 << 28, 5)\n"
        "for attempt in (lambda: open('/etc/passwd'), socket.socket, os.pipe):\n"
        "    try: attempt()\n"
        "    except OSError as error: print(error.errno)\n"
        "    else: print('opened')\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["24"] * 3, done.stderr


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("os.kill(os.getpid(), 11)", "its decoder ended without an answer"),
        ("os.kill(os.getpid(), 24)", "it takes too much processor time"),
        ("out.write(b'T' + struct.pack('<Q', 1 << 40))", "its decoder ended without an answer"),
        ("out.write(b'X' * 9)", "its decoder ended without an answer"),
        ("out.write(b'R' + struct.pack('<Q', 6) + b'memory')", "bytes of memory to decode"),
    ],
)
def test_a_child_that_crashes_or_lies_harms_nobody(
    says: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path, started: list[VideoProcess]
) -> None:
    script = tmp_path / "child.py"
    script.write_text(
        f"import os, struct, sys\nout = sys.stdout.buffer\nsys.stdin.buffer.read({len(MP4)})\n{says}\nout.flush()\n"
    )
    monkeypatch.setattr(process.child, "__file__", str(script))
    limit = TimeLimit(30, "clip")
    with (
        pytest.raises((BadClip, ClipTooCostly), match=message),
        VideoProcess(1 << 28, 10, "clip", limit) as running,
    ):
        running.times(MP4, "mov", 100, 96 * 80)


async def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    process._folder_of_pyav.cache_clear()
    monkeypatch.setattr(process, "find_spec", lambda name: None)
    with pytest.raises(NotSupported, match=r"pip install 'resonnx-server\[video\]'"):
        await read(MP4)
    process._folder_of_pyav.cache_clear()
