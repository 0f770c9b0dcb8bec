"""`resonnx bench --plan` with the latency tables of real servers."""

import json
import re
from pathlib import Path

import pytest
from resonnx import Client
from resonnx.cli import app
from typer.testing import CliRunner


def _run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["bench", *arguments])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.slow
def test_the_plan_is_made_of_the_servers_table(demo_server, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    wanted = ["--server", demo_server.grpc, "--model", "digits", "--plan", "100000", "--p99", "500"]
    status, told, failed = _run(*wanted, "--json", str(out))
    assert (status, failed) == (0, "")
    content = json.loads(out.read_text())
    with Client(demo_server.grpc) as client:
        (session,) = client.model("digits").sessions
    assert {int(size) for size in content["batch_ms"]} == {each.batch_size for each in session.latencies}
    needed = re.search(r"100000 requests/s need (\d+) servers?: ", told)
    assert needed is not None
    assert int(needed[1]) == content["replicas"] > 1
    assert content["replicas"] == -(-100000 // content["most_rate_of_replica"])
    assert content["expected_p99_ms"] <= 500


def test_what_cannot_be_planned_is_said(demo_server) -> None:
    at = ["--server", demo_server.grpc]
    status, _, failed = _run(*at, "--model", "scenes", "--plan", "10", "--p99", "500")
    assert status == 1
    assert failed.startswith("resonnx: scenes writes captions, whose times depend on their lengths: ")
    status, _, failed = _run(*at, "--model", "digits", "--plan", "10", "--p99", "0.001")
    assert status == 1
    assert failed.startswith("resonnx: no number of replicas keeps p99 within 0.001 ms: ")
    status, _, failed = _run(*at, "--model", "digits", "--plan", "10")
    assert status == 2
    assert "give --plan and --p99 together" in " ".join(failed.replace("│", " ").split())
