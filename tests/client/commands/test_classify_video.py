"""`resonnx classify-video`: what it sends, what it prints, and how it exits."""

import json
from pathlib import Path

import pytest
from resonnx_proto.v1 import vision_pb2 as pb


@pytest.fixture(autouse=True)
def clips(vision, tmp_path: Path) -> None:
    """A file, a folder of two frames, and an empty one; the server's label is what a clip's frames hold."""
    (tmp_path / "a.gif").write_text("a")
    for name in ("frame10.png", "frame9.png"):
        (tmp_path / "frames").mkdir(exist_ok=True)
        (tmp_path / "frames" / name).write_text(name)
    (tmp_path / "empty").mkdir()

    def script(request, context):
        label = request.clip.decode() or "+".join(image.encoded.decode() for image in request.frames.images)
        return pb.ClassifyVideoResponse(
            model=request.model, version=3, predictions=[{"label": label, "index": 7, "score": 0.5}], frames_read=[0]
        )

    vision.script["ClassifyVideo"] = script


def test_files_and_folders_of_frames_are_clips(vision, run) -> None:
    done = run("classify-video", "a.gif", "--model", "m:3", "--top-k", "2")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "a  0.50\n", "")
    assert (vision.requests[0].version, vision.requests[0].top_k) == (3, 2)
    done = run("classify-video", "a.gif", "frames", "--model", "m")
    assert done.stdout == "a.gif: a  0.50\nframes: frame9.png+frame10.png  0.50\n"


def test_json(run) -> None:
    done = run("classify-video", "a.gif", "empty", "--model", "m", "--json")
    good, bad = map(json.loads, done.stdout.splitlines())
    assert good == {
        "video": "a.gif",
        "model": "m",
        "version": 3,
        "predictions": [{"label": "a", "index": 7, "score": 0.5}],
        "frames_read": [0],
    }
    assert (bad["video"], bad["error"]["code"]) == ("empty", "INVALID_ARGUMENT")
    assert done.exit_code == 1


def test_failures_for_people(run, vision, tmp_path: Path) -> None:
    (tmp_path / "b.gif").touch()
    done = run("classify-video", "empty", "none.gif", "b.gif", "a.gif", "--model", "m")
    assert (done.exit_code, done.stdout) == (1, "a.gif: a  0.50\n")
    empty, none, blank = done.stderr.splitlines()
    assert empty.startswith("resonnx: empty: a folder without pictures (.avif")
    assert (none, blank) == ("resonnx: none.gif: No such file or directory", "resonnx: b.gif: the clip's file is empty")
    assert len(vision.requests) == 1
    assert run("classify-video", "--model", "m").exit_code == 2
    assert run("classify-video", "-", "-", "--model", "m").exit_code == 2


def test_stream(run, vision) -> None:
    def script(requests, context):
        for number, label in enumerate(("up", "left", "left")[: len(list(requests)) + 1]):
            yield pb.ClassifyVideoStreamResponse(
                predictions=[{"label": label, "score": 0.5}], frame=number, is_final=number == 2
            )

    vision.script["ClassifyVideoStream"] = script
    done = run("classify-video", "frames", "a.gif", "--model", "m", "--stream")
    assert done.stdout == "frames: frame 0: up  0.50\nframes: frame 1: left  0.50\nframes: left  0.50\n"
    assert (done.exit_code, done.stderr) == (1, "resonnx: a.gif: Not a directory\n")
    assert run("classify-video", "frames", "--model", "m", "--stream", "--json").exit_code == 2
