"""The Prometheus registry: Triton's nv_* counters under their exact names, and our own series.

Labels come from loaded models, never from requests.
"""

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from resonnx_server.observe.connections import Connections
from resonnx_server.observe.exposition import ExactCounter
from resonnx_server.observe.machine import MachineCollector
from resonnx_server.observe.stats import Histogram, ModelStats

_LABELS: Final = ("model", "version")
# Unloaded versions whose series are kept, so that counters lose nothing before they are scraped.
_MOST_RETIRED: Final = 256

Number = tuple[str, str, Callable[[ModelStats], float]]
Distribution = tuple[str, str, Callable[[ModelStats], Histogram]]

# Triton's name, help text and value; durations are sums over requests, in µs.
_TRITON: Final[tuple[Number, ...]] = (
    ("nv_inference_request_success", "Successful requests", lambda s: s.success.count),
    ("nv_inference_count", "Rows inferred", lambda s: s.inferences),
    ("nv_inference_exec_count", "Batches executed", lambda s: s.executions),
    ("nv_inference_request_duration_us", "Total time of successful requests", lambda s: s.success.ns // 1000),
    ("nv_inference_queue_duration_us", "Queue time of successful requests", lambda s: s.queue.ns // 1000),
    (
        "nv_inference_compute_input_duration_us",
        "Batch assembly time of successful requests",
        lambda s: s.compute_input.ns // 1000,
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "Inference time of successful requests",
        lambda s: s.compute_infer.ns // 1000,
    ),
    (
        "nv_inference_compute_output_duration_us",
        "Batch splitting time of successful requests",
        lambda s: s.compute_output.ns // 1000,
    ),
)
# Our counters; `_total` is appended to their names.
_COUNTERS: Final[tuple[Number, ...]] = (
    ("resonnx_padded_rows", "Padding rows of batches", lambda s: s.padded_rows),
    (
        "resonnx_hung_runs",
        "Runs that took far longer than expected and were given up",
        lambda s: s.session_events["interrupted"] + s.session_events["abandoned"],
    ),
    (
        "resonnx_replaced_sessions",
        "Sessions opened again after a hung run or a lack of memory",
        lambda s: s.session_events["replaced"],
    ),
)
_CAPTIONERS_COUNTERS: Final[tuple[Number, ...]] = (
    ("resonnx_caption_tokens", "Tokens decoded", lambda s: s.tokens),
    ("resonnx_decoder_steps", "Decoder steps", lambda s: s.steps),
    ("resonnx_decoder_wasted_rows", "Rows of decoder steps that no caption used", lambda s: s.wasted_rows),
)
_CAPTIONERS_GAUGES: Final[tuple[Number, ...]] = (
    ("resonnx_decoder_slots", "Decode slots: captions' rows in a step", lambda s: s.slots),
    (
        "resonnx_decoder_slots_used",
        "Decode slots in use at the last step",
        lambda s: s.slots_used if s.in_progress else 0,
    ),
)
_HISTOGRAMS: Final[tuple[Distribution, ...]] = (
    ("resonnx_request_duration_seconds", "Time from parsing a request to its response", lambda s: s.request_seconds),
    ("resonnx_queue_duration_seconds", "Time in the queue", lambda s: s.queue_seconds),
    ("resonnx_compute_duration_seconds", "Time on the device", lambda s: s.compute_seconds),
    ("resonnx_batch_rows", "Rows of a batch, without padding", lambda s: s.batch_rows),
)
_CAPTIONERS_HISTOGRAMS: Final[tuple[Distribution, ...]] = (
    ("resonnx_decoder_step_rows", "Rows in use in a decoder step", lambda s: s.step_rows),
    (
        "resonnx_time_to_first_word_seconds",
        "Time from arrival to the first word of a caption that can no longer change",
        lambda s: s.first_word_seconds,
    ),
)


class Metrics:
    """All metrics of one server.

    Attributes:
        connections: What is done about connections of gRPC.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._models: dict[tuple[str, str], ModelStats] = {}
        # In the order in which they were unloaded.
        self._retired: dict[tuple[str, str], None] = {}
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(MachineCollector())
        self.connections = Connections()
        self.registry.register(self.connections)
        self.registry.register(_ModelCollector(self._models))

    def model(self, name: str, version: int) -> ModelStats:
        """Return the statistics of a version; one that is loaded again goes on counting."""
        key = name, str(version)
        self._retired.pop(key, None)
        return self._models.setdefault(key, ModelStats())

    def retire(self, name: str, version: int) -> None:
        """Note that a version is unloaded. Its series stay until that many others were unloaded after it."""
        self._retired[name, str(version)] = None
        if len(self._retired) > _MOST_RETIRED:
            oldest = next(iter(self._retired))
            del self._retired[oldest], self._models[oldest]

    def models(self) -> dict[tuple[str, int], ModelStats]:
        """Return the statistics of all models by name and version."""
        return {(name, int(version)): stats for (name, version), stats in self._models.items()}


class _ModelCollector(Collector):
    """Reads the models' stats at each scrape."""

    def __init__(self, models: dict[tuple[str, str], ModelStats]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """Yield the families of all models, and captioners' own families."""
        models = self._models
        captioners = {labels: stats for labels, stats in models.items() if stats.slots}
        yield from _families(CounterMetricFamily, _COUNTERS, models)
        yield from _families(CounterMetricFamily, _CAPTIONERS_COUNTERS, captioners)
        yield from _families(ExactCounter, _TRITON, models)
        yield from _families(GaugeMetricFamily, _CAPTIONERS_GAUGES, captioners)
        for histograms, of in ((_HISTOGRAMS, models), (_CAPTIONERS_HISTOGRAMS, captioners)):
            for name, documentation, histogram in histograms:
                measured = HistogramMetricFamily(name, documentation, labels=_LABELS)
                for labels, stats in of.items():
                    measured.add_metric(labels, histogram(stats).buckets(), histogram(stats).sum)
                yield measured
        failures = ExactCounter("nv_inference_request_failure", "Failed requests", labels=(*_LABELS, "reason"))
        errors = CounterMetricFamily(
            "resonnx_request_errors", "Failed requests by the reason in the response", labels=(*_LABELS, "reason")
        )
        for labels, stats in models.items():
            for reason, count in stats.failures.items():
                failures.add_metric((*labels, reason), count)
            for error, count in stats.errors.items():
                errors.add_metric((*labels, error), count)
        yield from (failures, errors)


def _families(
    kind: type[CounterMetricFamily] | type[ExactCounter] | type[GaugeMetricFamily],
    numbers: tuple[Number, ...],
    models: dict[tuple[str, str], ModelStats],
) -> Iterator[Metric]:
    for name, documentation, read in numbers:
        family = kind(name, documentation, labels=_LABELS)
        for labels, stats in models.items():
            family.add_metric(labels, read(stats))
        yield family
