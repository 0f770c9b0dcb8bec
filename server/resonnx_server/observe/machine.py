"""Triton's processor and memory gauges, from /proc: of the whole machine, even in a container."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from resonnx_server.observe.series.meaning import Meaning

_PROC: Final = Path("/proc")
# Shortest time to measure utilization over, as several collectors may scrape in quick succession.
_LEAST_WINDOW_S: Final = 2.0
# Fields of the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal. User includes guests.
_FIELDS: Final = 8
_IDLE: Final = slice(3, 5)
_UTILIZATION: Final = Meaning(
    f"Utilisation of the machine's processors, 0 to 1, since the last scrape (at least {_LEAST_WINDOW_S:g} s)",
    "Much more than the server's own `process_cpu_seconds_total`: other programs take its processors.",
)
_TOTAL: Final = Meaning("Memory of the machine; a container's limit may be lower", "Unexpected: it is another machine.")
_USED: Final = Meaning("Unavailable memory of the machine", "Near the total: the system may end the server.")


class _Ticks(NamedTuple):
    total: int
    idle: int


class MachineCollector(Collector):
    """Reads `proc` at each scrape. `clock` is in monotonic seconds."""

    def __init__(self, proc: Path = _PROC, clock: Callable[[], float] = time.monotonic) -> None:
        self._proc, self._clock = proc, clock
        self._read_at = clock()
        self._ticks = self._read_ticks()
        self._utilization: float | None = None

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges; without a value where /proc has none."""
        memory = self._read_memory()
        total, available = memory.get("MemTotal"), memory.get("MemAvailable")
        used = None if total is None or available is None else total - available
        for name, meaning, value in (
            ("nv_cpu_utilization", _UTILIZATION, self._utilization_now()),
            ("nv_cpu_memory_total_bytes", _TOTAL, total),
            ("nv_cpu_memory_used_bytes", _USED, used),
        ):
            yield GaugeMetricFamily(name, meaning, value=value)

    def _utilization_now(self) -> float | None:
        now = self._clock()
        if self._utilization is not None and now - self._read_at < _LEAST_WINDOW_S:
            return self._utilization
        ticks, before = self._read_ticks(), self._ticks
        if ticks is None or before is None:
            return None
        if (passed := ticks.total - before.total) > 0:
            # iowait may decrease.
            self._utilization = min(max(1 - (ticks.idle - before.idle) / passed, 0.0), 1.0)
            self._ticks, self._read_at = ticks, now
        return self._utilization

    def _read_ticks(self) -> _Ticks | None:
        try:
            _, *fields = (self._proc / "stat").read_text().partition("\n")[0].split()
            ticks = [int(field) for field in fields[:_FIELDS]]
        except (OSError, ValueError):
            return None
        return _Ticks(sum(ticks), sum(ticks[_IDLE]))

    def _read_memory(self) -> dict[str, int]:
        """Return bytes by name."""
        try:
            lines = (self._proc / "meminfo").read_text().splitlines()
        except OSError:
            return {}
        fields = (line.split() for line in lines)
        return {field[0].rstrip(":"): int(field[1]) * 1024 for field in fields if len(field) == 3 and field[2] == "kB"}
