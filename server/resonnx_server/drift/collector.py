"""Gauges of drift: how far pictures and captions are from the reference."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from resonnx_server.drift.drift import Drift
from resonnx_server.observe.series.meaning import Meaning

_LABELS: Final = ("model", "version", "of", "traffic", "window")


# A model's name, its version, and its drift; None without reference pictures.
Watched = tuple[str, int, Drift | None]


class DriftCollector(Collector):
    """Reads the estimates at each scrape, on the event loop. Versions without reference pictures have no series.

    Args:
        models: Returns those that serve.
    """

    def __init__(self, models: Callable[[], Iterable[Watched]]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges. Series begin with the 30th effective row."""
        distance = GaugeMetricFamily(
            "resonnx_drift_distance",
            Meaning(
                "Distance of the last rows from the reference pictures, 0 to 1 (docs/drift.md). of is pictures or "
                "captions, traffic is requests or comparison (of versions), window is the number of effective rows at "
                "most",
                "Above `resonnx_drift_bound`: look at pictures and answers; docs/drift.md says how.",
            ),
            labels=_LABELS,
        )
        bound = GaugeMetricFamily(
            "resonnx_drift_bound",
            Meaning(
                "Distance that rows like the reference pictures do not exceed, given how few both are",
                "Large: few reference pictures or few requests; export with more `--pictures`.",
            ),
            labels=_LABELS,
        )
        rows = GaugeMetricFamily(
            "resonnx_drift_rows",
            Meaning("Effective number of the last rows", "Few: only large changes exceed the bound yet."),
            labels=_LABELS,
        )
        for name, version, drift in self._models():
            if drift is None:
                continue
            for traffic, watch in (("requests", drift.requests), ("comparison", drift.comparison)):
                for of, reading in watch.readings():
                    labels = (name, str(version), of, traffic, str(reading.window))
                    distance.add_metric(labels, reading.distance)
                    bound.add_metric(labels, reading.bound)
                    rows.add_metric(labels, reading.effective)
        yield from (distance, bound, rows)
