"""`resonnx bench` that is cut short keeps what it has measured; files that cannot be written are found out first."""

import itertools
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import grpc
import pytest
from resonnx.bench.load import open_loop
from resonnx_proto.v1 import manifest_pb2, vision_pb2

COMMAND = [sys.executable, "-c", "from resonnx.cli import main; main()", "bench", "--model", "digits", "--warmup", "0"]


class Terminal:
    """What a command writes to its terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.text = ""

    def read_until(self, text: str) -> None:
        while text not in self.text:
            self.text += os.read(self._descriptor, 4096).decode()

    def read_all(self) -> None:
        # Linux calls it an input/output error when nobody has the other side.
        with suppress(OSError):
            while block := os.read(self._descriptor, 4096):
                self.text += block.decode()


@contextmanager
def running(*arguments: str) -> Iterator[tuple["subprocess.Popen[str]", Terminal]]:
    """The command, with a terminal for its progress and errors."""
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=its, text=True, env=environment
    ) as process:
        os.close(its)
        try:
            yield process, Terminal(ours)
        finally:
            process.kill()
            os.close(ours)


@pytest.mark.parametrize(
    ("cut", "status"), [("interrupt", 130), pytest.param("server dies", 1, marks=pytest.mark.slow)]
)
def test_finished_runs_are_told_when_a_later_one_is_cut_short(
    start_server, demo_server, demo_repository, tmp_path: Path, cut, status
) -> None:
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    files = ("--json", str(out), "--plot", str(plot))
    with (
        nullcontext(demo_server) if cut == "interrupt" else start_server(demo_repository) as server,
        running("--server", server.grpc, "--stream", "--rate", "30,50,70", "--duration", "1", *files) as (
            bench,
            terminal,
        ),
    ):
        terminal.read_until("50/s")
        if cut == "interrupt":
            bench.send_signal(signal.SIGINT)
        else:
            server.process.kill()
        terminal.read_all()
        table, _ = bench.communicate()
    assert bench.returncode == status
    assert "30/s" in table
    assert "50/s" not in table
    content = json.loads(out.read_text())
    assert [run["rate"] for run in content["runs"]] == [30]
    assert content["runs"][0]["ok"]
    assert f"resonnx: {content['cut_short']}" in terminal.text
    assert "cut short after 1 finished run" in terminal.text
    assert (content["cut_short"] == "interrupted") == (cut == "interrupt")
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_an_interrupt_before_anything_is_measured_writes_nothing(demo_server, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    with running("--server", demo_server.grpc, "--concurrency", "3", "--duration", "60", "--json", str(out)) as (
        bench,
        terminal,
    ):
        terminal.read_until("3 callers")
        bench.send_signal(signal.SIGINT)
        terminal.read_all()
        assert bench.communicate() == ("", None)
    assert bench.returncode == 130
    assert "resonnx: interrupted" in terminal.text
    assert "cut short" not in terminal.text
    assert not out.exists()


@pytest.fixture
def streams(vision) -> None:
    """A classifier of 4x4 pixels that answers five streams: those of a search's closed loop and of one rate."""
    begun = itertools.count(1)

    def script(requests, context):
        if next(begun) > 5:
            vision.fail(context, grpc.StatusCode.INTERNAL, "broken")
        for request in requests:
            yield vision_pb2.ClassifyStreamResponse(id=request.id, response={})

    info = vision_pb2.GetModelResponse(manifest={"input": {"width": 4, "height": 4}})
    info.summary.task = manifest_pb2.TASK_CLASSIFIER
    vision.script |= {"GetModel": lambda request, context: info, "ClassifyStream": script}


def test_a_search_that_is_cut_short_tells_the_best_rate_so_far(run, streams) -> None:
    load = ("--stream", "--concurrency", "1", "--duration", "1", "--warmup", "0", "--search-p99-ms", "30000")
    done = run("bench", "--model", "m", "--json", "out.json", *load)
    content = json.loads(Path("out.json").read_text())
    assert (done.exit_code, content["cut_short"]) == (1, "broken")
    assert content["runs"]
    told = "no rate that was tried" if content["highest_rate"] is None else f"{content['highest_rate']:.1f} requests/s"
    assert f"highest rate with p99 within 30000 ms, so far: {told}" in done.stdout


def test_a_fault_of_our_own_ends_a_sweep_only_after_what_finished_is_told(run, streams, monkeypatch) -> None:
    def faulty(call, rate, plan, tally):
        if rate == 40:
            raise ZeroDivisionError("ours")
        return open_loop(call, rate, plan, tally)

    monkeypatch.setattr("resonnx.bench.session.open_loop", faulty)
    load = ("--stream", "--rate", "30,40,50", "--duration", "0.3", "--warmup", "0")
    done = run("bench", "--model", "m", "--json", "out.json", *load)
    assert isinstance(done.exception, ZeroDivisionError)
    assert "30/s" in done.stdout
    assert [run["rate"] for run in json.loads(Path("out.json").read_text())["runs"]] == [30]


@pytest.mark.parametrize("option", ["--json", "--plot"])
@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("nowhere/out.png", "nowhere/: No such file or directory"),
        ("file/out.png", "file/: Not a directory"),
        ("folder.png", "folder.png: Is a directory"),
        pytest.param(
            "theirs/out.png",
            "theirs/: Permission denied",
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere"),
        ),
        ("x" * 300 + ".png", "File name too long"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_anything_is_sent(run, vision, tmp_path, option, file, message):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "theirs").mkdir(0o500)
    done = run("bench", "--model", "m", option, file)
    assert done.exit_code == 2
    assert option in done.stderr
    assert message in " ".join(done.stderr.split())
    assert not vision.requests


@pytest.mark.parametrize(("file", "suffix"), [("out.doc", "doc"), ("out", "")])
def test_a_plot_of_an_unknown_kind_is_told_before_anything_is_sent(run, vision, tmp_path, file, suffix) -> None:
    done = run("bench", "--model", "m", "--plot", file)
    assert done.exit_code == 2
    assert f"--plot {file}: Format '{suffix}' is not supported" in done.stderr
    assert not vision.requests
    assert not list(tmp_path.iterdir())


def test_results_go_into_a_pipe(demo_server) -> None:
    arguments = ["--server", demo_server.grpc, "--concurrency", "1", "--duration", "0.5", "--json", "/dev/stderr"]
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stderr)["runs"][0]["ok"]
