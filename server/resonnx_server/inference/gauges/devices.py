"""Metrics of devices, and of the server as it was built."""

import platform
from collections.abc import Iterator
from importlib.metadata import version

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from resonnx_server.inference.registry import Models
from resonnx_server.observe.series.meaning import Meaning
from resonnx_server.runtime.providers.installed import runtime_distribution


class DeviceCollector(Collector):
    """Reads the devices of models at each scrape, on the event loop.

    Args:
        models: The registry.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        runtime, number = runtime_distribution()
        self._build = (version("resonnx-server"), runtime, number, platform.python_version())

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        build = GaugeMetricFamily(
            "resonnx_build_info",
            Meaning(
                "Always 1; versions of the server, of its runtime (name and version) and of Python",
                "Servers differ: a rollout is under way, or has stopped half way.",
            ),
            labels=("version", "runtime", "runtime_version", "python"),
        )
        build.add_metric(self._build, 1)
        lanes = GaugeMetricFamily(
            "resonnx_device_lanes",
            Meaning("Batches that a device runs at the same time", "Fewer than processors: a container has a limit."),
            labels=("device",),
        )
        busy = CounterMetricFamily(
            "resonnx_device_busy_seconds",
            Meaning(
                "Time of batches and decoder steps, summed over the lanes; its rate divided by resonnx_device_lanes is "
                "the device's busy share",
                "A share near 1: the device is saturated; add servers. Low while requests wait: see "
                "`resonnx_request_stage_seconds_total`.",
            ),
            labels=("device",),
        )
        abandoned = GaugeMetricFamily(
            "resonnx_abandoned_threads",
            Meaning(
                "Threads left with runs that do not end",
                "Above 0: a run hangs in the device's driver; restart the server when it suits.",
            ),
            labels=("device",),
        )
        for device in sorted({model.engine.device for model in self._models}, key=lambda device: device.name):
            lanes.add_metric((device.name,), device.lanes)
            busy.add_metric((device.name,), device.busy_ns() / 1e9)
            abandoned.add_metric((device.name,), device.abandoned())
        yield from (build, lanes, busy, abandoned)
