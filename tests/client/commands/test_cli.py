"""The command line, of pictures: what it prints, where, and how it exits."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest
from resonnx_proto.v1 import vision_pb2

MAIN = [sys.executable, "-c", "from resonnx.cli import main; main()"]


def test_classify_one(vision, run, pictures, answer) -> None:
    vision.script["Classify"] = lambda request, context: answer
    done = run("classify", "00.jpg", "--model", "digits", "--top-k", "2")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == "seven  0.75\none    0.25\n"
    assert vision.requests[0].top_k == 2


@pytest.mark.usefixtures("named")
def test_classify_many_in_the_order_given(run, pictures) -> None:
    done = run("classify", *pictures, "--model", "digits")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [f"{name}: {name}  0.50" for name in pictures]


def test_pictures_overtake_each_other_on_the_way_but_not_in_print(vision, run, pictures) -> None:
    fifth = threading.Event()

    def script(request, context):
        name = request.image.encoded.decode()
        if name == "04.jpg":
            fifth.set()
        if name == "00.jpg":
            assert fifth.wait(20)
        return vision_pb2.ClassifyResponse(predictions=[{"label": name}])

    vision.script["Classify"] = script
    done = run("classify", *pictures, "--model", "digits")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == pictures


def test_pictures_are_read_four_times_concurrency_ahead(vision, run, pictures) -> None:
    first = threading.Event()
    lock = threading.Lock()
    arrived = []

    def script(request, context):
        name = request.image.encoded.decode()
        with lock:
            arrived.append(name)
            if len(arrived) == 16:
                first.set()
        if name == "00.jpg":
            # All others are done or under way; none starts before this one is printed.
            assert first.wait(20)
            assert sorted(arrived) == pictures[:16]
        return vision_pb2.ClassifyResponse(predictions=[{"label": name}])

    vision.script["Classify"] = script
    assert run("classify", *pictures, "--model", "digits", "--concurrency", "4").exit_code == 0
    assert sorted(arrived) == pictures


@pytest.mark.usefixtures("named")
def test_json(run, pictures) -> None:
    done = run("classify", "00.jpg", "--model", "digits", "--json")
    assert json.loads(done.stdout) == {
        "image": "00.jpg",
        "model": "digits",
        "version": 3,
        "predictions": [{"label": "00.jpg", "index": 7, "score": 0.5}],
    }


@pytest.mark.usefixtures("named")
def test_json_of_failures(run, pictures, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("junk")
    done = run("classify", "00.jpg", "bad.jpg", "none.jpg", "01.jpg", "--model", "digits", "--json")
    assert (done.exit_code, done.stderr) == (1, "")
    good, bad, none, last = map(json.loads, done.stdout.splitlines())
    assert (good["image"], last["image"]) == ("00.jpg", "01.jpg")
    assert bad == {
        "image": "bad.jpg",
        "error": {
            "code": "INVALID_ARGUMENT",
            "reason": "BAD_IMAGE",
            "message": "image: an HTML page; taken are\nJPEG and PNG files",
        },
    }
    assert none == {
        "image": "none.jpg",
        "error": {
            "code": "INVALID_ARGUMENT",
            "reason": "IMAGE_UNREADABLE",
            "message": "No such file or directory",
        },
    }


@pytest.mark.usefixtures("named")
def test_failures_for_people(run, pictures, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("junk")
    done = run("classify", "bad.jpg", "none.jpg", "00.jpg", "--model", "digits")
    assert done.exit_code == 1
    assert done.stdout == "00.jpg: 00.jpg  0.50\n"
    assert done.stderr.splitlines() == [
        "resonnx: bad.jpg: image: an HTML page; taken are JPEG and PNG files",
        "resonnx: none.jpg: No such file or directory",
    ]


def test_caption(vision, run, pictures, sentence) -> None:
    vision.script["Caption"] = lambda request, context: sentence
    assert run("caption", "00.jpg", "--model", "scenes").stdout == "a circle\n"
    done = run("caption", "00.jpg", "01.jpg", "--model", "scenes")
    assert done.stdout == "00.jpg: a circle\n01.jpg: a circle\n"
    done = run("caption", "00.jpg", "--model", "scenes", "--json")
    assert json.loads(done.stdout) == {
        "image": "00.jpg",
        "model": "scenes",
        "version": 1,
        "captions": [{"text": "a circle", "log_prob": -1.0, "score": -0.5}],
    }


def test_caption_stream(vision, run, pictures, sentence) -> None:
    def script(request, context):
        for word in sentence.captions[0].words:
            yield vision_pb2.StreamCaptionResponse(word=word)
        if request.image.encoded == b"01.jpg":
            vision.fail(context, grpc.StatusCode.INTERNAL, "the model failed")
        yield vision_pb2.StreamCaptionResponse(final=sentence)

    vision.script["StreamCaption"] = script
    done = run("caption", "00.jpg", "--model", "scenes", "--stream")
    assert (done.exit_code, done.stdout) == (0, "a circle\n")
    done = run("caption", "01.jpg", "none.jpg", "02.jpg", "--model", "scenes", "--stream")
    assert done.exit_code == 1
    assert done.stdout == "01.jpg: a circle\n02.jpg: a circle\n"
    assert done.stderr.splitlines() == [
        "resonnx: 01.jpg: the model failed",
        "resonnx: none.jpg: No such file or directory",
    ]


def test_words_are_printed_as_they_come(vision, pictures, tmp_path: Path, sentence) -> None:
    seen = threading.Event()

    def script(request, context):
        yield vision_pb2.StreamCaptionResponse(word=sentence.captions[0].words[0])
        assert seen.wait(20)
        yield vision_pb2.StreamCaptionResponse(word=sentence.captions[0].words[1])
        yield vision_pb2.StreamCaptionResponse(final=sentence)

    vision.script["StreamCaption"] = script
    arguments = ["caption", "00.jpg", "--model", "scenes", "--server", vision.address, "--stream"]
    with subprocess.Popen(MAIN + arguments, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.read(1) == b"a"
        seen.set()
        assert process.stdout.read() == b" circle\n"
    assert process.returncode == 0
