"""What counts as a clip, and how it travels."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from resonnx import InvalidArgument
from resonnx._pictures import videos
from resonnx._pictures.videos import MAX_FRAMES, to_video
from resonnx_proto.v1 import vision_pb2 as pb

FRAMES = np.arange(3 * 2 * 5 * 3, dtype=np.uint8).reshape(3, 2, 5, 3)


def _frames(video: Any, times_s: Any = None) -> pb.VideoFrames:
    found = to_video(video, times_s)
    assert isinstance(found, pb.VideoFrames)
    return found


def _contents(video: Any) -> list[bytes]:
    return [image.encoded for image in _frames(video).images]


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_of_a_file_sends_its_bytes(tmp_path: Path, kind: type) -> None:
    (tmp_path / "x.gif").write_bytes(b"GIF")
    assert to_video(kind(tmp_path / "x.gif"), None) == b"GIF"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, io.BytesIO])
def test_bytes_and_open_files_are_a_clips_file(kind: type) -> None:
    assert to_video(kind(b"GIF"), None) == b"GIF"


def test_a_folder_is_its_pictures_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("frame10.png", "frame9.JPG", "frame2.png", "frame02.png", "about.txt", ".hidden.png", "end.png"):
        (tmp_path / name).write_text(name)
    (tmp_path / "frame3.png").mkdir()
    assert _contents(str(tmp_path)) == [b"end.png", b"frame02.png", b"frame2.png", b"frame9.JPG", b"frame10.png"]


@pytest.mark.parametrize(
    "video",
    [FRAMES, torch.from_numpy(FRAMES), torch.from_numpy(FRAMES).permute(0, 3, 1, 2), list(FRAMES),
     (Image.fromarray(frame) for frame in FRAMES)],
    ids=["array", "tensor", "channels first", "list", "generator"],
)  # fmt: skip
def test_frames_are_pictures_in_any_form(video: Any) -> None:
    sent = _frames(video)
    assert [image.raw for image in sent.images] == [
        pb.Image.Raw(rgb=frame.tobytes(), width=5, height=2) for frame in FRAMES
    ]
    assert not sent.times_s


def test_times_go_with_frames() -> None:
    assert [*_frames(FRAMES, np.array([0, 0.5, 0.5])).times_s] == [0.0, 0.5, 0.5]
    with pytest.raises(ValueError, match="a clip's file has its own"):
        to_video(b"GIF", [0.0])


@pytest.mark.parametrize(
    ("times_s", "told"),
    [
        ([0, 1], "^times_s: 2 times of 3 frames"),
        ([0, 2, 1], r"^times_s\[2\]: 1 is not finite, or below"),
        ([0, 1, float("inf")], r"^times_s\[2\]: inf"),
        ([float("nan"), 1, 2], r"^times_s\[0\]: nan"),
    ],
)
def test_times_that_do_not_fit_are_refused(times_s: list[float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        to_video(FRAMES, times_s)


@pytest.mark.parametrize(
    ("video", "kind", "told"),
    [
        ([], ValueError, "at least one frame"),
        (b"", ValueError, "the clip's file is empty"),
        (io.BytesIO(), ValueError, "nothing left"),
        (io.StringIO("GIF"), TypeError, "binary mode"),
        (memoryview(FRAMES), ValueError, "a memoryview must hold a file's bytes"),
        (FRAMES[0], ValueError, r"\[frames, height, width, channels\], got \[2, 5, 3\]"),
        (FRAMES.astype(np.float32), ValueError, "^frame 0: an array must be uint8"),
        ([b"png", 3], TypeError, "^frame 1: a picture is a path"),
        (Image.fromarray(FRAMES[0]), TypeError, "not a PIL image"),
        (3, TypeError, "not builtins.int"),
    ],
)
def test_what_is_no_clip_is_refused(video: Any, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind, match=told):
        to_video(video, None)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        to_video("none.gif", None)
    with pytest.raises(FileNotFoundError):
        to_video([b"png", "none.png"], None)
    with pytest.raises(OSError, match=r"a folder without pictures \(.avif"):
        to_video(tmp_path, None)


def test_more_than_fits_is_refused_before_all_of_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "MAX_VIDEO_BYTES", 1000)
    (tmp_path / "long.mp4").write_bytes(b"x" * 1001)
    for video, told in (
        (tmp_path / "long.mp4", "long.mp4: a clip's file of 1001 bytes, more than the 1000"),
        (b"x" * 1001, "a clip's file of 1001 bytes"),
        ((b"x" * 200 for _ in iter(int, 1)), "the first 5 frames are 1160 bytes, more than the 1000"),
    ):
        with pytest.raises(InvalidArgument, match=told) as caught:
            to_video(video, None)
        assert (caught.value.reason, caught.value.field) == ("VIDEO_TOO_LARGE", "video")


def test_more_frames_than_the_server_takes_are_refused() -> None:
    assert len(_frames([b"x"] * MAX_FRAMES).images) == MAX_FRAMES
    with pytest.raises(InvalidArgument, match="more than the 4500 frames"):
        to_video((b"x" for _ in iter(int, 1)), None)


def test_the_servers_limit_of_a_request_holds_what_is_sent() -> None:
    """The overhead that is counted for a frame is enough, for the largest sizes too."""
    frame = pb.Image(raw=pb.Image.Raw(rgb=b"x" * 2**21, width=2**31, height=2**31))
    sent = pb.VideoFrames(images=[frame], times_s=[1.0]).ByteSize()
    assert sent <= 2**21 + videos._FRAME_OVERHEAD + 8
