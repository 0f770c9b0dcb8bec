"""The command line: what it prints, where, and how it exits."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from resonnx.cli import app
from resonnx_proto.v1 import manifest_pb2, vision_pb2
from typer.testing import CliRunner

MAIN = [sys.executable, "-c", "from resonnx.cli import main; main()"]


@pytest.fixture
def run(vision, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., object]:
    """Run the command in a folder of its own, with the scripted server as its default."""
    monkeypatch.setenv("RESONNX_SERVER", vision.address)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Forty files that hold their own names."""
    names = [f"{i:02}.jpg" for i in range(40)]
    for name in names:
        (tmp_path / name).write_text(name)
    return names


@pytest.fixture
def named(vision) -> None:
    """A classifier that answers with what the file holds, and cannot read a file that says junk."""

    def script(request, context):
        content = request.image.encoded.decode()
        if content == "junk":
            vision.fail(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                "image: not a\nJPEG, PNG or WebP file",
                error_details_pb2.ErrorInfo(reason="BAD_IMAGE", domain="resonnx"),
            )
        return vision_pb2.ClassifyResponse(
            model=request.model,
            version=3,
            predictions=[{"label": content, "index": 7, "score": 0.5}],
        )

    vision.script["Classify"] = script


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


def test_no_more_than_sixteen_pictures_are_under_way(vision, run, pictures) -> None:
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
    assert run("classify", *pictures, "--model", "digits").exit_code == 0
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
            "message": "image: not a\nJPEG, PNG or WebP file",
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
        "resonnx: bad.jpg: image: not a JPEG, PNG or WebP file",
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


@pytest.fixture
def two_models(vision) -> None:
    """One model that serves and one that does not."""
    digits = vision_pb2.ModelSummary(
        name="digits",
        version=3,
        task=manifest_pb2.TASK_CLASSIFIER,
        state=vision_pb2.MODEL_STATE_READY,
    )
    scenes = vision_pb2.ModelSummary(
        name="scenes",
        version=1,
        task=manifest_pb2.TASK_CAPTIONER,
        state=vision_pb2.MODEL_STATE_REFUSED,
        reason="damaged",
    )

    def get_model(request, context):
        if request.model != "digits":
            vision.fail(context, grpc.StatusCode.NOT_FOUND, "no model 'nobody'")
        return vision_pb2.GetModelResponse(
            summary=digits,
            manifest={
                "task": "TASK_CLASSIFIER",
                "input": {"width": 32, "height": 32},
                "classifier": {"labels": ["zero", "one"]},
                "source": {"architecture": "resnet18", "layout": "torchvision"},
            },
            sessions=[
                {
                    "file": "model.onnx",
                    "provider": "CPUExecutionProvider",
                    "precision": "PRECISION_FP32",
                    "latencies": [{"batch_size": 1, "median_us": 2100}],
                }
            ],
            identity="ab12",
            verified=True,
            max_batch_size=16,
            max_queue_size=64,
            max_message_bytes=2**26,
        )

    vision.script["ListModels"] = lambda request, context: vision_pb2.ListModelsResponse(models=[digits, scenes])
    vision.script["GetModel"] = get_model


@pytest.mark.usefixtures("two_models")
def test_models(run) -> None:
    done = run("models")
    assert done.exit_code == 0
    assert done.stdout == (
        "NAME    VERSION  TASK        STATE             PROVIDER              VERIFIED\n"
        "digits  3        classifier  ready             CPUExecutionProvider  yes\n"
        "scenes  1        captioner   refused: damaged  -                     -\n"
    )
    rows = [json.loads(line) for line in run("models", "--json").stdout.splitlines()]
    assert rows[0] == {
        "name": "digits",
        "version": 3,
        "task": "classifier",
        "state": "ready",
        "reason": "",
        "provider": "CPUExecutionProvider",
        "verified": True,
    }
    assert (rows[1]["provider"], rows[1]["verified"]) == (None, None)


@pytest.mark.usefixtures("two_models")
def test_one_model(run) -> None:
    done = run("models", "digits")
    assert done.exit_code == 0
    assert done.stdout == (
        "name        digits\n"
        "version     3\n"
        "task        classifier\n"
        "state       ready\n"
        "verified    yes\n"
        "identity    ab12\n"
        "limits      batch 16, queue 64, message 64 MiB\n"
        "source      resnet18 (torchvision)\n"
        "input       32x32\n"
        "labels      2\n"
        "model.onnx  CPUExecutionProvider fp32, one at a time, batches 1: 2.1 ms\n"
    )
    shown = json.loads(run("models", "digits", "--json").stdout)
    assert shown["manifest"]["classifier"]["labels"] == ["zero", "one"]
    assert shown["sessions"][0]["latencies"] == [{"batch_size": 1, "median_s": 0.0021}]


@pytest.mark.usefixtures("two_models")
def test_no_such_model(run) -> None:
    done = run("models", "nobody")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "resonnx: no model 'nobody'\n"
    done = run("models", "nobody", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"]["code"] == "NOT_FOUND"


@pytest.mark.parametrize(
    "arguments",
    [
        ["classify", "--model", "m"],
        ["classify", "x.jpg"],
        ["classify", "x.jpg", "--model", "m", "--top-k", "0"],
        ["classify", "x.jpg", "--model", "m", "--top-k", "99999999999"],
        ["classify", "x.jpg", "--model", "m", "--timeout", "0"],
        ["classify", "x.jpg", "--model", "m", "--timeout", "nan"],
        ["classify", "x.jpg", "--model", "\udcff"],
        ["classify", "x.jpg", "--model", "m", "--server", "\udcff"],
        ["models", "\udcff"],
        ["classify", "x.jpg", "--model", "m", "--stream"],
        ["caption", "x.jpg", "--model", "m", "--stream", "--json"],
        ["shout"],
    ],
)
def test_wrong_usage(run, arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_a_deadline_names_the_server(vision, run, pictures) -> None:
    release = threading.Event()
    vision.script["Classify"] = lambda request, context: release.wait(30) and None
    try:
        done = run("classify", "00.jpg", "--model", "digits", "--timeout", "0.1")
    finally:
        release.set()
    assert done.exit_code == 1
    assert done.stderr.startswith(f"resonnx: 00.jpg: no answer from {vision.address} in time")


@pytest.mark.parametrize("command", ["classify", "caption", "caption --stream", "models"])
def test_a_refused_connection_is_one_clear_line(pictures, tmp_path: Path, command: str) -> None:
    name, *flags = command.split()
    # Port 1 (tcpmux) is never bound on a machine that runs tests.
    arguments = [name, *flags, "--server", "127.0.0.1:1"]
    if name != "models":
        arguments += ["--model", "m", *pictures]
    done = subprocess.run(MAIN + arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("resonnx: server 127.0.0.1:1 is not available: ")
    assert done.stderr.count("\n") == 1


def test_every_picture_has_its_line_of_json_even_without_a_server(run, pictures) -> None:
    done = run("classify", *pictures, "--model", "m", "--json", "--server", "127.0.0.1:1")
    assert done.exit_code == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["image"] for line in lines] == pictures
    assert {line["error"]["code"] for line in lines} == {"UNAVAILABLE"}


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize(
    ("encoding", "lines"),
    [
        ("utf-8", ["\\udcff.jpg: schön  0.50", "snow ☃.jpg: schön  0.50"]),
        ("iso-8859-1", ["\\udcff.jpg: schön  0.50", "snow \\u2603.jpg: schön  0.50"]),
    ],
)
def test_names_and_labels_that_the_terminal_cannot_show(
    vision, tmp_path: Path, encoding: str, lines: list[str]
) -> None:
    names = [b"\xff.jpg", "snow ☃.jpg".encode()]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text("schön")
    done = subprocess.run(
        [*MAIN, "classify", "--model", "m", "--server", vision.address, *map(os.fsdecode, names)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode(encoding).splitlines() == lines


def test_an_interrupt_ends_the_calls_under_way(vision, pictures, tmp_path: Path) -> None:
    arrived, release = threading.Event(), threading.Event()

    def script(request, context):
        arrived.set()
        release.wait(30)

    vision.script["Classify"] = script
    options = ["--model", "m", "--server", vision.address, "--timeout", "100"]
    with subprocess.Popen([*MAIN, "classify", *options, *pictures], cwd=tmp_path, stderr=subprocess.PIPE) as process:
        assert arrived.wait(20)
        process.send_signal(signal.SIGINT)
        assert process.stderr
        assert b"Traceback" not in process.stderr.read()
        assert process.wait(20) != 0
    release.set()


@pytest.mark.usefixtures("named")
def test_a_reader_that_leaves_early(vision, pictures, tmp_path: Path) -> None:
    arguments = ["classify", "--model", "m", "--server", vision.address, *pictures]
    with subprocess.Popen(MAIN + arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == 1
