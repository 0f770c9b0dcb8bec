"""/metrics of a real server, as collectors read it: two formats, each by parsers that share nothing."""

import gzip
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import prometheus_client.openmetrics.parser
import prometheus_client.parser
import pytest
import resonnx
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    UntypedMetricFamily,
)
from resonnx_server.observe.exposition import ExactCounter, Format, accepted_format, accepts_gzip, page
from resonnx_server.observe.machine import MachineCollector

from .metrics_page import Family, read

# What moves by itself between two scrapes, of a server that nobody asks.
_MOVING = re.compile("process_.*|nv_cpu_.*")
_GAUGES = {
    "nv_inference_pending_request_count",
    "nv_cpu_utilization",
    "nv_cpu_memory_total_bytes",
    "nv_cpu_memory_used_bytes",
}
# As Prometheus 2 and 3, and a client with a wish of its own, ask.
_PROMETHEUS_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75"
_PROMETHEUS_2 += ",text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
_PROMETHEUS_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;"
_PROMETHEUS_3 += (
    "version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2"
)
_PROMETHEUS_3 += ",/;q=0.1"


def _get(http: str, **headers: str) -> tuple[dict[str, str], bytes]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with urllib.request.urlopen(urllib.request.Request(f"http://{http}/metrics", headers=names), timeout=10) as answer:
        return dict(answer.headers), answer.read()


def _still(page: bytes) -> list[str]:
    return [line for line in page.decode().splitlines() if not _MOVING.match(line)]


@pytest.fixture(scope="module")
def pages(demo_server, samples: Path, truth: dict[str, dict[str, str]]) -> tuple[str, str]:
    """The page in both formats, of a server that has been asked."""
    pictures = {entry["model"]: (samples / name).read_bytes() for name, entry in truth.items()}
    with resonnx.Client(demo_server.grpc) as client:
        client.classify(pictures["digits"], model="digits")
        client.caption(pictures["scenes"], model="scenes")
        with pytest.raises(resonnx.ResonnxError):
            client.classify(b"no picture", model="digits")
        with pytest.raises(resonnx.NotFound):
            client.classify(pictures["digits"], model="nobody")
    while True:
        text, openmetrics, again = (_get(demo_server.http, Accept=accept) for accept in ("*/*", _PROMETHEUS_2, "*/*"))
        # A batch may be learnt from, or a caller's leaving be heard of, after the answer.
        if _still(text[1]) == _still(again[1]):
            break
    assert text[0]["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert openmetrics[0]["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    return text[1].decode(), openmetrics[1].decode()


@pytest.mark.parametrize("openmetrics", [False, True])
def test_two_parsers_read_the_same(pages: tuple[str, str], openmetrics: bool) -> None:
    page = pages[openmetrics]
    parser = prometheus_client.openmetrics.parser if openmetrics else prometheus_client.parser
    theirs = {family.name: family for family in parser.text_string_to_metric_families(page)}  # type: ignore[no-untyped-call]
    mine = read(page, openmetrics=openmetrics)
    assert len(mine) > 30
    # prometheus_client takes `_total` off text's counters, too.
    assert theirs.keys() == {
        name.removesuffix("_total") if family.kind == "counter" else name for name, family in mine.items()
    }
    for name, family in mine.items():
        other = theirs[name.removesuffix("_total")]
        assert (family.kind, family.documentation) == (
            {"unknown": "untyped"}.get(other.type, other.type) if not openmetrics else other.type,
            other.documentation,
        )
        if openmetrics or family.kind != "counter":
            found = {(s.name, frozenset(s.labels.items())): s.value for s in other.samples}
            assert found == family.samples


@pytest.mark.timeout(300)
def test_a_parser_of_another_language_reads_the_same(pages: tuple[str, str], node_modules: Path) -> None:
    # Node looks for packages beside its script.
    script = shutil.copy(Path(__file__).parent / "metrics_page.js", node_modules)
    command = ["node", str(script)]
    done = subprocess.run(command, input=pages[0], capture_output=True, text=True, timeout=60, check=True)
    theirs = {family["name"]: family for family in json.loads(done.stdout)}
    mine = read(pages[0], openmetrics=False)
    assert theirs.keys() == mine.keys()
    for name, family in mine.items():
        assert (theirs[name]["type"], theirs[name]["help"]) == (family.kind.upper(), family.documentation)
        # It takes the histograms of all labels for one.
        if family.kind != "histogram":
            found = {(name, frozenset(s.get("labels", {}).items())): float(s["value"]) for s in theirs[name]["metrics"]}
            assert found == family.samples


def test_promtool_reads_it(pages: tuple[str, str]) -> None:
    """Prometheus' own parser; beyond that it has wishes, about Triton's names."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian: prometheus) is not installed")
    done = subprocess.run([promtool, "check", "metrics"], input=pages[0], capture_output=True, text=True, timeout=30)
    assert done.returncode in (0, 3), done.stderr
    said = (done.stdout + done.stderr).splitlines()
    assert [line for line in said if not line.startswith("nv_")] == []


def test_counters_are_counters_and_triton_has_its_names(pages: tuple[str, str]) -> None:
    text, openmetrics = read(pages[0], openmetrics=False), read(pages[1], openmetrics=True)
    triton = {name for name in text if name.startswith("nv_")}
    assert triton >= {
        *(f"nv_inference_{name}" for name in ("request_success", "request_failure", "count", "exec_count")),
        *(
            f"nv_inference_{part}_duration_us"
            for part in ("request", "queue", "compute_input", "compute_infer", "compute_output")
        ),
        *_GAUGES,
    }
    for name in triton:
        kinds = (text[name].kind, openmetrics[name].kind)
        assert kinds == (("gauge", "gauge") if name in _GAUGES else ("counter", "unknown")), name
    ours = {name for name in text if name.endswith("_total")}
    assert ours >= {
        f"resonnx_{name}_total"
        for name in ("padded_rows", "caption_tokens", "decoder_steps", "request_errors", "rejected_calls")
    }
    for name in ours:
        assert (text[name].kind, openmetrics[name.removesuffix("_total")].kind) == ("counter", "counter")
    assert not [name for name, family in text.items() if family.kind == "untyped"]


def test_both_formats_say_the_same(pages: tuple[str, str]) -> None:
    text, openmetrics = (
        {key: value for family in read(page, openmetrics=is_open).values() for key, value in family.samples.items()}
        for page, is_open in zip(pages, (False, True), strict=True)
    )
    assert text.keys() == openmetrics.keys()
    for (name, labels), value in text.items():
        assert _MOVING.fullmatch(name) or value == openmetrics[name, labels], name
    # And what was asked is in it.
    digits = frozenset({("model", "digits"), ("version", "1")})
    assert text["nv_inference_request_success", digits] >= 1
    assert text["nv_inference_request_failure", digits | {("reason", "OTHER")}] >= 1
    assert text["resonnx_rejected_calls_total", frozenset({("reason", "MODEL_NOT_FOUND")})] >= 1


def test_classifiers_have_no_captioners_series(pages: tuple[str, str]) -> None:
    series: dict[str, set[str]] = {"digits": set(), "scenes": set()}
    for family in read(pages[0], openmetrics=False).values():
        for name, labels in family.samples:
            if (model := dict(labels).get("model")) is not None:
                series[model].add(name)
    of_captioners = re.compile("resonnx_(caption|decoder|time_to_first_word)_.*")
    assert not [name for name in series["digits"] if of_captioners.fullmatch(name)]
    assert len([name for name in series["scenes"] if of_captioners.fullmatch(name)]) == 11
    assert len(series["digits"]) > 20


def test_how_a_model_runs(demo_server) -> None:
    assert demo_server.metric("resonnx_model_ready", model="digits") == 1
    assert demo_server.metric("resonnx_queue_rows", model="digits") == 0
    assert demo_server.metric("resonnx_instances", model="digits", file="model.onnx") >= 1
    with resonnx.Client(demo_server.grpc) as client:
        (session,) = client.model("digits").sessions
    for latency in session.latencies:
        labels = {"model": "digits", "file": "model.onnx", "batch_size": str(latency.batch_size)}
        expected_s = demo_server.metric("resonnx_batch_expected_seconds", **labels)
        assert expected_s == pytest.approx(latency.expected_s, rel=0.5)
        assert demo_server.metric("resonnx_batch_spread_seconds", **labels) >= 0
    assert 0 <= demo_server.metric("nv_cpu_utilization") <= 1
    used, total = (demo_server.metric(f"nv_cpu_memory_{name}_bytes") for name in ("used", "total"))
    assert 0 < used < total


@pytest.mark.parametrize(
    ("accept", "zipped"),
    [("gzip", True), ("br, gzip;q=0.1", True), ("*", True), ("gzip;q=0", False), ("*;q=0", False), ("identity", False)],
)
def test_gzip_where_it_is_asked_for(demo_server, accept: str, zipped: bool) -> None:
    headers, body = _get(demo_server.http, Accept_Encoding=accept)
    assert headers.get("Content-Encoding") == ("gzip" if zipped else None)
    assert "Accept-Encoding" in headers["Vary"]
    page = gzip.decompress(body) if zipped else body
    assert "nv_inference_count" in read(page.decode(), openmetrics=False)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, Format.TEXT),
        ("", Format.TEXT),
        ("*/*", Format.TEXT),
        ("text/plain", Format.TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", Format.TEXT),
        ("application/openmetrics-text", Format.OPENMETRICS),
        ("Application/OpenMetrics-Text; Version=1.0.0", Format.OPENMETRICS),
        ('application/openmetrics-text; version="0.0.1",text/plain;version=0.0.4;q=0.5', Format.OPENMETRICS),
        ("application/openmetrics-text;version=2.0.0,text/plain;q=0.1", Format.TEXT),
        ("application/openmetrics-text;q=0", Format.TEXT),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.3", Format.TEXT),
        ("application/openmetrics-text;q=0.2,text/plain;version=1.0.0;q=0.3", Format.OPENMETRICS),
        ("application/openmetrics-text;q=nan", Format.TEXT),
        ("application/openmetrics-text;q=high", Format.TEXT),
        ("application/openmetrics-text;q=2", Format.TEXT),
        (";;,,=;q", Format.TEXT),
        (_PROMETHEUS_2, Format.OPENMETRICS),
        (_PROMETHEUS_3, Format.OPENMETRICS),
    ],
)
def test_the_format_is_the_collectors_choice(accept: str | None, chosen: Format) -> None:
    assert accepted_format(accept) is chosen


def test_no_header_is_no_wish_for_gzip() -> None:
    assert not accepts_gzip(None)
    assert not accepts_gzip("gzipped")
    assert accepts_gzip("deflate, GZIP")


@pytest.mark.parametrize("written", Format)
def test_labels_and_help_of_any_text(written: Format) -> None:
    label, documentation = 'a "b"\n\\n \\ ü', 'Tells "why"\nor \\n'
    family = CounterMetricFamily("c", documentation, labels=("reason",))
    family.add_metric((label,), 12345678.5)
    exact = ExactCounter("nv_count", "x", labels=("reason",))
    exact.add_metric((label,), 1)
    text = page([family, exact, GaugeMetricFamily("none", "No samples")], written, compressed=False).decode()
    is_open = written is Format.OPENMETRICS
    found = read(text, openmetrics=is_open)
    labels = frozenset({("reason", label)})
    escaped = documentation.replace("\\", "\\\\").replace("\n", "\\n")
    expected = Family("counter", escaped.replace('"', '\\"') if is_open else escaped, {("c_total", labels): 12345678.5})
    assert found["c" if is_open else "c_total"] == expected
    assert found["nv_count"] == Family("unknown" if is_open else "counter", "x", {("nv_count", labels): 1.0})
    assert len(found) == 2


def test_other_types() -> None:
    unknown = UntypedMetricFamily("u", "x", value=1)
    info = InfoMetricFamily("i", "x", value={"a": "b"})
    expected = {False: {"u": "untyped", "i_info": "gauge"}, True: {"u": "unknown", "i": "info"}}
    for written in Format:
        is_open = written is Format.OPENMETRICS
        found = read(page([unknown, info], written, compressed=False).decode(), openmetrics=is_open)
        assert {name: family.kind for name, family in found.items()} == expected[is_open]


class Machine:
    """A /proc that a test writes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.s = folder, 0.0
        self.write(0, 0)
        (folder / "meminfo").write_text("MemTotal:  4 kB\nMemFree:  1 kB\nMemAvailable:  3 kB\nHugePages_Total:  0\n")

    def write(self, busy: int, idle: int) -> None:
        """Ticks since the start: half of the idle ones wait for a disk, a fifth of the busy ones is a guest's."""
        line = f"cpu  {busy // 2} 0 0 {idle // 2} {idle // 2} {busy // 2} 0 0 {busy // 5} 0"
        (self.folder / "stat").write_text(f"{line}\ncpu0 1 2 3 4 5 6 7 8 9 10\n")

    def read(self, collector: MachineCollector) -> dict[str, float]:
        return {s.name.removeprefix("nv_cpu_"): s.value for family in collector.collect() for s in family.samples}


def test_the_machines_processors_and_memory(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    collector = MachineCollector(tmp_path, lambda: machine.s)
    assert machine.read(collector) == {"memory_total_bytes": 4096, "memory_used_bytes": 1024}
    machine.write(busy=30, idle=10)
    assert machine.read(collector)["utilization"] == 0.75
    machine.write(busy=40, idle=10)
    machine.s = 1.9
    assert machine.read(collector)["utilization"] == 0.75, "too short a time to say anything else"
    machine.s = 2.0
    assert machine.read(collector)["utilization"] == 1.0
    machine.s = 9.0
    assert machine.read(collector)["utilization"] == 1.0, "nothing has been counted since"
    machine.write(busy=40, idle=20)
    assert machine.read(collector)["utilization"] == 0.0
    machine.s = 20.0
    machine.write(busy=60, idle=10)
    assert machine.read(collector)["utilization"] == 1.0, "the kernel takes idle time back now and then"


def test_a_kernel_that_does_not_say_what_is_available(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal:  4 kB\nMemFree:  1 kB\n")
    assert machine.read(MachineCollector(tmp_path)) == {"memory_total_bytes": 4096}


@pytest.mark.parametrize("stat", [None, "", "cpu\n", "cpu a b\n"])
def test_a_machine_that_does_not_say(tmp_path: Path, stat: str | None) -> None:
    if stat is not None:
        (tmp_path / "stat").write_text(stat)
    assert [family.samples for family in MachineCollector(tmp_path).collect()] == [[], [], []]


def test_the_committed_reference_is_up_to_date_and_whole(pages: tuple[str, str]) -> None:
    root = Path(__file__).parents[3]
    printed = subprocess.run(
        [sys.executable, "deploy/metrics_reference.py"], cwd=root, capture_output=True, text=True, check=True
    )
    committed = (root / "docs/metrics.md").read_text()
    assert committed == printed.stdout, "make metrics"
    told = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| .+\. \|$", committed, re.MULTILINE)
    }
    for name, family in read(pages[0], openmetrics=False).items():
        if not name.startswith(("process_", "python_")):
            labels = {label for _, pairs in family.samples for label, _ in pairs} - {"le"}
            assert told[name] == (family.kind, labels), name
