"""perf_analyzer, as its users run it: each way of sending requests, with the server's statistics in its report."""

import csv
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from .....attacks.guarded import guarded
from .....conftest import RunningServer
from .... import bare_graphs

pytestmark = pytest.mark.slow

# Lines of its report that come from ModelStatistics.
_FROM_THE_SERVER = ("Inference count", "Execution count", "Successful request count")
Analyze = Callable[..., dict[str, str]]


def _strings() -> bytes:
    """Strings that come back."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.STRING, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "strings", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, Path]]:
    folder = tmp_path_factory.mktemp("analyzed")
    for name, content in {"doubling": bare_graphs.doubling(), "strings": _strings()}.items():
        path = folder / "models" / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    (folder / "traces").mkdir()
    flags = ("--admin-port", "0", "--system-shared-memory-bytes", str(64 << 20), "--trace-dir", str(folder / "traces"))
    with start_server(folder / "models", *flags) as running:
        yield running, folder


@pytest.fixture
def analyze(server, perf_analyzer, tmp_path: Path) -> Analyze:
    """Run it against the admin port, which serves all methods, or the HTTP port; return a row of its report."""
    running, _ = server

    def run(model: str, *flags: str, interface: str = "grpc") -> dict[str, str]:
        address = str(running.admin) if interface == "grpc" else running.http
        before = running.metric("nv_inference_request_success", model=model)
        report = tmp_path / "report.csv"
        command = [*perf_analyzer, "-i", interface, "-u", address, "-m", model, "-b", "1", "-p", "400"]
        command += ["-s", "999", "-r", "3", "-f", str(report), *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "failed" not in (done.stdout + done.stderr).lower()
        for line in _FROM_THE_SERVER:
            counted = re.search(rf"{line}: (\d+)", done.stdout)
            assert counted is not None, done.stdout
            assert int(counted[1]) > 0, line
        # The averages of the stages.
        assert re.search(r"Avg request latency: [1-9]\d* usec \(overhead \d+ usec \+ queue \d+ usec", done.stdout)
        with report.open() as file:
            (row,) = csv.DictReader(file)
        assert float(row["Inferences/Second"]) > 0
        assert float(row["Server Compute Infer"]) > 0
        assert float(row["Server Queue"]) > 0
        assert running.metric("nv_inference_request_success", model=model) > before
        return row

    return run


@pytest.mark.parametrize("way", [["--sync"], ["--async"], ["--async", "--streaming"]])
@pytest.mark.parametrize("shared", [[], ["--shared-memory", "system", "--output-shared-memory-size", "1024"]])
def test_sync_async_and_streams_with_and_without_shared_memory(analyze, way: list[str], shared: list[str]) -> None:
    analyze("doubling", "--concurrency-range", "2", *way, *shared)


@pytest.mark.parametrize("way", [["--sync"], ["--async"], ["--async", "-b", "4"]])
def test_over_http(analyze, way: list[str]) -> None:
    analyze("doubling", "--concurrency-range", "2", *way, interface="http")


def test_batches(analyze) -> None:
    analyze("doubling", "--concurrency-range", "4", "--async", "-b", "4")


def test_request_rate(analyze) -> None:
    row = analyze("doubling", "--request-rate-range", "100", "--request-distribution", "poisson")
    assert 50 < float(row["Inferences/Second"]) < 150


@pytest.mark.parametrize("shared", [[], ["--shared-memory", "system", "--output-shared-memory-size", "1024"]])
def test_strings(analyze, shared: list[str]) -> None:
    analyze("strings", "--string-length", "20", *shared)
    analyze("strings", "--string-data", "some text", *shared)


def test_compression(analyze) -> None:
    analyze("doubling", "--grpc-compression-algorithm", "gzip")


def test_keys_and_shared_memory_on_the_main_port(start_server, perf_analyzer, tmp_path: Path) -> None:
    """Regions are registered where requests are sent to."""
    flags = ("--admin-on-main", "--system-shared-memory-bytes", str(1 << 20))
    with guarded(start_server, tmp_path, "core", *flags) as running:
        command = [*perf_analyzer, "-i", "grpc", "-u", running.server.grpc, "-m", "doubling", "-p", "400", "-s", "999"]
        command += ["-r", "3", "--shared-memory", "system", "--output-shared-memory-size", "64"]
        for key, works in (("admin", True), ("infer", False)):
            header = ["-H", f"authorization: Bearer {key}"]
            done = subprocess.run([*command, *header], capture_output=True, text=True, timeout=120)
            assert ("throughput" in done.stdout.lower()) == works, done.stdout + done.stderr


def test_traces(analyze, server) -> None:
    """They are of the requests that it sent, in the form that trace_summary reads."""
    running, folder = server
    analyze("doubling", "--trace-level", "TIMESTAMPS", "--trace-rate", "10", "--trace-count", "5")
    running.stop()
    records = json.loads((folder / "traces" / "trace.json").read_text())
    assert len({record["id"] for record in records}) == 5
    for record in records:
        if "timestamps" in record:
            times = {each["name"]: each["ns"] for each in record["timestamps"]}
            assert times["REQUEST_START"] <= times["QUEUE_START"] <= times["COMPUTE_START"] <= times["REQUEST_END"]
        else:
            assert (record["model_name"], record["model_version"]) == ("doubling", 1)
