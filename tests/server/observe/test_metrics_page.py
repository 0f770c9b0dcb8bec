"""/metrics of a real server, as collectors read it: two formats, each by parsers that share nothing."""

import gzip
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import prometheus_client.openmetrics.parser
import prometheus_client.parser
import pytest
import resonnx

from .metrics_page import read
from .test_exposition import PROMETHEUS_2

_LONGEST_CACHED_S = 0.21
_TRACE = "0af7651916cd43dd8448eb211c80319c"
# What moves by itself between two scrapes, of a server that nobody asks: expected times go back to the measured ones.
_MOVING = re.compile("process_.*|nv_cpu_.*|resonnx_batch_expected_seconds.*")
_GAUGES = {
    "nv_inference_pending_request_count",
    "nv_cpu_utilization",
    "nv_cpu_memory_total_bytes",
    "nv_cpu_memory_used_bytes",
}


def _get(http: str, **headers: str) -> tuple[dict[str, str], bytes]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with urllib.request.urlopen(urllib.request.Request(f"http://{http}/metrics", headers=names), timeout=10) as answer:
        return dict(answer.headers), answer.read()


def _fresh(http: str, accept: str) -> tuple[dict[str, str], bytes]:
    """Get the page when none that was made before is sent any more."""
    time.sleep(_LONGEST_CACHED_S)
    return _get(http, Accept=accept)


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
    traced = urllib.request.Request(f"http://{demo_server.http}/v1/classify/digits", pictures["digits"])
    traced.add_header("traceparent", f"00-{_TRACE}-00f067aa0ba902b7-01")
    with urllib.request.urlopen(traced, timeout=10) as answer:
        assert answer.status == 200
    end = time.monotonic() + 30
    while True:
        assert time.monotonic() < end, "the page of an idle server changes"
        text, openmetrics, again = (_fresh(demo_server.http, accept) for accept in ("*/*", PROMETHEUS_2, "*/*"))
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


def test_openmetrics_names_the_trace_of_a_request(pages: tuple[str, str]) -> None:
    families = {f.name: f for f in prometheus_client.openmetrics.parser.text_string_to_metric_families(pages[1])}  # type: ignore[no-untyped-call]
    for stage in ("request", "decode", "queue", "compute"):
        samples = families[f"resonnx_{stage}_duration_seconds"].samples
        (found,) = (s for s in samples if s.exemplar and s.exemplar.labels == {"trace_id": _TRACE})
        assert found.labels["model"] == "digits"
        assert 0 < found.exemplar.value <= float(found.labels["le"])
        assert abs(float(found.exemplar.timestamp) - time.time()) < 300
    assert _TRACE not in pages[0], "the text format has no exemplars"


def test_the_stages_of_requests_add_up(pages: tuple[str, str]) -> None:
    samples = {
        key: value for family in read(pages[0], openmetrics=False).values() for key, value in family.samples.items()
    }
    for model in ("digits", "scenes"):
        labels = frozenset({("model", model), ("version", "1")})
        whole = samples["resonnx_request_duration_seconds_sum", labels]
        stages = {
            dict(of)["stage"]: value
            for (name, of), value in samples.items()
            if name == "resonnx_request_stage_seconds_total" and labels <= of
        }
        assert ("between_steps" in stages) == (model == "scenes")
        assert min(stages.values()) >= 0
        assert sum(stages.values()) == pytest.approx(whole, rel=1e-6)


def test_a_batch_has_one_reason_and_device_time(pages: tuple[str, str], demo_server) -> None:
    samples = {
        key: value for family in read(pages[0], openmetrics=False).values() for key, value in family.samples.items()
    }
    for model in ("digits", "scenes"):
        labels = frozenset({("model", model), ("version", "1")})
        reasons = [
            value
            for (name, of), value in samples.items()
            if name == "resonnx_dispatched_batches_total" and labels <= of
        ]
        assert len(reasons) == 4
        assert sum(reasons) == samples["nv_inference_exec_count", labels] > 0
        predicted, actual, error = (
            samples[f"resonnx_{name}_seconds_total", labels]
            for name in ("predicted_run", "run", "run_prediction_error")
        )
        assert min(predicted, actual) > 0
        assert abs(predicted - actual) <= error * (1 + 1e-9)
    busy = samples["resonnx_device_busy_seconds_total", frozenset({("device", "cpu")})]
    lanes = samples["resonnx_device_lanes", frozenset({("device", "cpu")})]
    assert busy > 0
    assert lanes >= 1
    assert samples["resonnx_queue_oldest_seconds", frozenset({("model", "digits"), ("version", "1")})] == 0


def test_predictions_of_a_classifier(pages: tuple[str, str]) -> None:
    families = read(pages[0], openmetrics=False)
    digits = frozenset({("model", "digits"), ("version", "1")})
    shares = families["resonnx_predicted_class_ratio"].samples
    assert sum(shares.values()) == pytest.approx(1)
    assert {dict(labels)["model"] for _, labels in shares} == {"digits"}
    rows = families["nv_inference_count"].samples["nv_inference_count", digits]
    for name in ("resonnx_prediction_confidence", "resonnx_prediction_entropy"):
        samples = families[name].samples
        assert samples[f"{name}_count", digits] == rows
        assert 0 <= samples[f"{name}_sum", digits] <= rows


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
