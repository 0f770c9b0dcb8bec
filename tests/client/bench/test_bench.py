"""`resonnx bench`: what it counts and refuses, and the whole command against a real server."""

import itertools
import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from resonnx.bench.load import Call, Plan
from resonnx.bench.summary import Result, Tally, summarise
from resonnx.bench.traffic import Traffic
from resonnx.bench.transport import sender
from resonnx.cli import app
from resonnx_proto.v1 import manifest_pb2, vision_pb2
from typer.testing import CliRunner


@pytest.fixture
def bench(vision) -> Callable[..., object]:
    """Run the command against the scripted server, which knows a classifier of 4x4 pixels."""
    info = vision_pb2.GetModelResponse(manifest={"input": {"width": 4, "height": 4}})
    info.summary.task = manifest_pb2.TASK_CLASSIFIER
    vision.script["GetModel"] = lambda request, context: info
    arguments = ["bench", "--model", "m", "--server", vision.address, "--warmup", "0", "--duration", "0.3"]
    return lambda *more: CliRunner().invoke(app, [*arguments, *more])


@pytest.fixture
def counted(monkeypatch) -> None:
    """Runs are of eight requests, one after the other, however long they take; answers count as ones of 10 ms."""

    async def closed(call: Call, concurrency: int, plan: Plan, tally: Tally) -> Result:
        for number in range(8):
            code, message = await call(number, plan.deadline_s)
            tally.add(code, 0.01, message)
        return summarise(tally, 1.0, concurrency=concurrency)

    async def opened(call: Call, rate: float, plan: Plan, tally: Tally) -> Result:
        result = await closed(call, 1, plan, tally)
        return replace(result, concurrency=None, rate=rate, lag_p99_ms=1.25)

    monkeypatch.setattr("resonnx.bench.session.closed_loop", closed)
    monkeypatch.setattr("resonnx.bench.session.open_loop", opened)


@pytest.mark.usefixtures("counted")
def test_refusals_errors_and_late_answers_are_told_apart(vision, bench, tmp_path: Path) -> None:
    turns = itertools.count()

    def script(request, context):
        turn = next(turns)
        match turn % 4:
            case 1:
                vision.fail(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
            case 2:
                vision.fail(context, grpc.StatusCode.INTERNAL, f"broken\nby {turn}")
            case 3:
                vision.fail(context, grpc.StatusCode.DEADLINE_EXCEEDED, "late")
        return vision_pb2.ClassifyResponse()

    vision.script["Classify"] = script
    done = bench("--concurrency", "1,2", "--json", str(tmp_path / "out.json"))
    assert done.exit_code == 1
    for number, run in enumerate(json.loads((tmp_path / "out.json").read_text())["runs"]):
        assert (run["ok"], run["refused"], run["late"], run["errors"]) == (2, 2, 2, {"INTERNAL": 2})
        assert run["error_messages"] == {"INTERNAL": f"broken\nby {8 * number + 2}"}
    assert done.stdout.endswith("\nINTERNAL: broken by 2\n")


@pytest.mark.usefixtures("counted")
def test_what_a_stream_says_of_its_errors_is_told(vision, bench, tmp_path: Path) -> None:
    def script(requests, context):
        for request in requests:
            yield vision_pb2.ClassifyStreamResponse(id=request.id, error={"code": "NOT_FOUND", "message": "no m here"})

    vision.script["ClassifyStream"] = script
    done = bench("--stream", "--concurrency", "1", "--json", str(tmp_path / "out.json"))
    (run,) = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert (run["errors"], run["error_messages"]) == ({"NOT_FOUND": 8}, {"NOT_FOUND": "no m here"})
    assert done.stdout.endswith("\nNOT_FOUND: no m here\n")


async def test_a_request_has_as_long_as_its_deadline_says(vision) -> None:
    def script(request, context):
        gone = threading.Event()
        context.add_callback(gone.set)
        assert gone.wait(30), "the caller waits for ever"

    vision.script["Classify"] = script
    traffic = Traffic("/resonnx.v1.Vision/Classify", (b"",))
    async with sender(vision.address, traffic, 1) as call:
        code, _ = await call(0, 0.05)
    assert code == "DEADLINE_EXCEEDED"


@pytest.mark.usefixtures("counted")
def test_a_classifier_of_few_classes_is_asked_for_no_more(vision, bench) -> None:
    vision.script["Classify"] = lambda request, context: vision_pb2.ClassifyResponse()
    assert bench("--concurrency", "1").exit_code == 0
    asked = [request for request in vision.requests if isinstance(request, vision_pb2.ClassifyRequest)]
    assert len(asked) == 8
    assert {request.top_k for request in asked} == {0}, "the server's default"


@pytest.mark.usefixtures("counted")
def test_pictures_of_a_folder_are_sent_in_turn(vision, bench, tmp_path: Path) -> None:
    for name in ("b.jpg", "a.png", "notes.txt"):
        (tmp_path / name).write_text(name)
    vision.script["Classify"] = lambda request, context: vision_pb2.ClassifyResponse()
    assert bench(str(tmp_path), "--concurrency", "1").exit_code == 0
    asked = [request for request in vision.requests if isinstance(request, vision_pb2.ClassifyRequest)]
    assert [request.image.encoded for request in asked] == [b"a.png", b"b.jpg"] * 4


@pytest.mark.parametrize(
    ("offers_from", "bears", "exit_code"),
    [(0, 40, 0), (0, 0, 1), pytest.param(30, 40, 0, id="nothing is due at low rates")],
)
def test_a_search_outlives_a_server_that_breaks_under_load(
    vision, bench, monkeypatch, tmp_path: Path, offers_from, bears, exit_code
) -> None:
    """Errors beyond what a server bears are what a search looks for; if no rate held, it has failed."""

    async def closed(call, concurrency, plan, tally):
        for _ in range(30):
            tally.add("OK", 0.01)
        return summarise(tally, 1.0, concurrency=concurrency)

    async def opened(call, rate, plan, tally):
        if rate >= offers_from:
            tally.add("OK" if rate <= bears else "INTERNAL", 0.01)
        return summarise(tally, 1.0, rate=rate)

    monkeypatch.setattr("resonnx.bench.session.closed_loop", closed)
    monkeypatch.setattr("resonnx.bench.session.open_loop", opened)
    done = bench("--concurrency", "2", "--search-p99-ms", "1000", "--json", str(tmp_path / "out.json"))
    content = json.loads((tmp_path / "out.json").read_text())
    assert any("INTERNAL" in run["errors"] for run in content["runs"][1:])
    assert done.exit_code == exit_code
    assert content["highest_rate"] == (pytest.approx(bears, rel=0.04) if bears else None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--concurrency", "0"), "--concurrency takes whole numbers"),
        (("--concurrency", "1.5"), "--concurrency takes whole numbers"),
        (("--rate", "x"), "--rate takes numbers"),
        (("--rate", "5", "--search-p99-ms", "5"), "not both"),
        (("--input", "file"), "--input file needs picture files"),
        (("--deadline-ms", "nan"), "must be a number over 0"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_sent(vision, bench, arguments, message) -> None:
    done = bench(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not vision.requests


def test_a_stream_that_ends_ends_the_run_in_one_line(vision, bench) -> None:
    def script(requests, context):
        next(requests)
        vision.fail(context, grpc.StatusCode.INTERNAL, "broken")
        yield

    vision.script["ClassifyStream"] = script
    done = bench("--stream", "--concurrency", "4")
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "resonnx: broken\n")


def test_no_server_is_one_line(bench) -> None:
    done = CliRunner().invoke(app, ["bench", "--model", "m", "--server", "127.0.0.1:1", "--duration", "0.1"])
    assert done.exit_code == 1
    assert done.stderr.startswith("resonnx: server 127.0.0.1:1 is not available")
    assert done.stderr.count("\n") == 1


def test_a_plot_without_matplotlib_is_refused_before_the_load(vision, bench, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = bench("--plot", "x.png")
    assert (done.exit_code, done.stderr) == (1, "resonnx: --plot needs matplotlib: pip install 'resonnx[bench]'\n")
    assert not vision.requests


@pytest.mark.usefixtures("counted")
def test_a_plot_of_nothing_but_errors_is_drawn_without_a_complaint(vision, bench, tmp_path: Path) -> None:
    vision.script["Classify"] = lambda request, context: vision.fail(context, grpc.StatusCode.INTERNAL, "broken")
    done = bench("--concurrency", "1", "--plot", str(tmp_path / "out.png"))
    assert (done.exit_code, done.exception.__class__, done.stderr) == (1, SystemExit, "")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("load", [("--concurrency", "1,8"), ("--rate", "50"), ("--search-p99-ms", "500")])
def test_pixels_to_a_real_server(demo_server, request, tmp_path: Path, load) -> None:
    if load[0] == "--search-p99-ms":
        # What this machine bears is not the question.
        request.getfixturevalue("counted")
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    arguments = ["bench", "--model", "digits", "--server", demo_server.grpc, "--warmup", "0.1", "--duration", "2"]
    done = CliRunner().invoke(app, [*arguments, *load, "--json", str(out), "--plot", str(plot)])
    assert (done.exit_code, done.stderr) == (0, "")
    content = json.loads(out.read_text())
    lags = [run["lag_p99_ms"] for run in content["runs"] if run["rate"]]
    assert ("lag p99 ms" in done.stdout) == bool(lags)
    assert all(f" {lag:.2f} " in done.stdout for lag in lags)
    assert all(run["ok"] and not run["errors"] for run in content["runs"] if run["concurrency"])
    if load[0] == "--search-p99-ms":
        assert content["highest_rate"] > 0
        assert "highest rate with p99 within 500 ms" in done.stdout
    else:
        assert len(content["runs"]) == len(load[1].split(","))
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("model", ["digits", "scenes"])
@pytest.mark.parametrize(
    "flags", [(), ("--input", "tensor"), ("--input", "tensor", "--stream"), ("--stream",), ("file",)]
)
def test_every_kind_of_request_is_answered(demo_server, samples: Path, tmp_path: Path, model, flags) -> None:
    out = tmp_path / "out.json"
    if flags == ("file",):
        flags = sorted(map(str, samples.glob("*.png")))[:4]
    arguments = ["bench", "--model", model, "--server", demo_server.grpc]
    done = CliRunner().invoke(app, [*arguments, "--concurrency", "4", "--json", str(out), *flags])
    if model == "scenes" and flags == ("--stream",):
        assert done.stderr == "resonnx: scenes has no stream of pictures: use --input tensor or omit --stream\n"
        return
    assert (done.exit_code, done.stderr) == (0, "")
    (run,) = json.loads(out.read_text())["runs"]
    assert (run["ok"], run["refused"], run["late"], run["errors"]) == (8, 0, 0, {})
