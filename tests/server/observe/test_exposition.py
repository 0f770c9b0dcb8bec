"""The page of metrics by itself: which format and packing a collector gets, and labels of any text."""

from pathlib import Path

import pytest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    UntypedMetricFamily,
)
from resonnx_server.observe.exposition import ExactCounter, Format, accepted_format, accepts_gzip, page
from resonnx_server.observe.machine import MachineCollector

from .metrics_page import Family, read

# As Prometheus 2 and 3, and a client with a wish of its own, ask.
PROMETHEUS_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75"
PROMETHEUS_2 += ",text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
PROMETHEUS_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;"
PROMETHEUS_3 += "version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2"
PROMETHEUS_3 += ",/;q=0.1"


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
        (PROMETHEUS_2, Format.OPENMETRICS),
        (PROMETHEUS_3, Format.OPENMETRICS),
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
