"""The command line, when it cannot do as told: what it says, and how it exits."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from resonnx._commands.output import error_line
from resonnx._errors import ResonnxError, Unauthenticated, Unavailable

MAIN = [sys.executable, "-c", "from resonnx.cli import main; main()"]


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


@pytest.mark.parametrize(
    "command", ["classify", pytest.param("caption", marks=pytest.mark.slow), "caption --stream", "models"]
)
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


@pytest.mark.parametrize(
    ("error", "option"),
    [
        (Unauthenticated("m", reason="KEY_MISSING"), "--key-file FILE"),
        (Unauthenticated("m", reason="KEY_UNKNOWN"), "RESONNX_KEY"),
        (Unauthenticated("m", reason="CERTIFICATE_MISSING"), "--cert FILE and --client-key FILE"),
        (Unauthenticated("m", reason="CERTIFICATE_UNKNOWN"), "--key-file FILE"),
        (Unavailable("last error: CERTIFICATE_VERIFY_FAILED: self signed"), "--ca FILE"),
        (Unavailable("last error: WRONG_VERSION_NUMBER"), "leave out --tls"),
        (Unavailable("last error: Socket closed"), "--ca FILE or --tls"),
    ],
)
def test_refused_access_names_the_option(error: ResonnxError, option: str) -> None:
    line = error_line(error, "host:1")
    assert error.message in line
    assert option in line


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
