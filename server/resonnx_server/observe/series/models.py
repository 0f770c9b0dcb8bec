"""Reads the series of models from their counters."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from resonnx_server.observe.exposition import ExactCounter
from resonnx_server.observe.series import definitions
from resonnx_server.observe.series.histogram import Histogram
from resonnx_server.observe.series.meaning import Meaning
from resonnx_server.observe.stats import ModelStats

_LABELS: Final = ("model", "version")
# Value of the label `class` for all classes but the most frequent ones.
_OTHER: Final = "other"
# Characters of a class's name.
_LONGEST_NAME: Final = 64

_Key = tuple[str, str]
_Models = Mapping[_Key, ModelStats]


class ModelCollector(Collector):
    """Reads the models' counters at each scrape.

    Args:
        models: By name and version.
    """

    def __init__(self, models: _Models) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """Yield the families of all models, and those that only some kinds of models have."""
        models = self._models
        captioners = {key: stats for key, stats in models.items() if stats.slots}
        predicting = {key: each for key, stats in models.items() if (each := stats.predictions) is not None}
        yield from _families(CounterMetricFamily, definitions.COUNTERS, models)
        yield from _families(CounterMetricFamily, definitions.CAPTIONERS_COUNTERS, captioners)
        yield from _families(ExactCounter, definitions.TRITON, models)
        yield from _families(GaugeMetricFamily, definitions.CAPTIONERS_GAUGES, captioners)
        for parts in definitions.PARTS:
            yield _parts(parts, models)
        yield _parts(definitions.OBJECTIVE, {key: stats for key, stats in models.items() if stats.objective_ns})
        for name, meaning, of in definitions.HISTOGRAMS:
            yield _histogram(name, meaning, ((key, of(stats)) for key, stats in models.items()))
        for name, meaning, of in definitions.CAPTIONERS_HISTOGRAMS:
            yield _histogram(name, meaning, ((key, of(stats)) for key, stats in captioners.items()))
        for name, meaning, of_predictions in definitions.PREDICTIONS:
            for each in predicting.values():
                each.count()
            yield _histogram(name, meaning, ((key, of_predictions(each)) for key, each in predicting.items()))
        shares = GaugeMetricFamily(*definitions.SHARES, labels=(*_LABELS, "class", "name"))
        for key, each in predicting.items():
            of_first, of_others = each.shares()
            for index, share in of_first.items():
                shares.add_metric((*key, str(index), each.names[index][:_LONGEST_NAME]), share)
            if of_first:
                shares.add_metric((*key, _OTHER, ""), of_others)
        yield shares
        failures = ExactCounter(*definitions.FAILURES, labels=(*_LABELS, "reason"))
        errors = CounterMetricFamily(*definitions.ERRORS, labels=(*_LABELS, "reason"))
        for key, stats in models.items():
            for reason, count in stats.failures.items():
                failures.add_metric((*key, reason), count)
            for error, count in stats.errors.items():
                errors.add_metric((*key, error), count)
        yield from (failures, errors)


def _families(
    kind: type[CounterMetricFamily] | type[ExactCounter] | type[GaugeMetricFamily],
    numbers: Iterable[definitions.Number],
    models: _Models,
) -> Iterator[Metric]:
    for name, meaning, read in numbers:
        family = kind(name, meaning, labels=_LABELS)
        for key, stats in models.items():
            family.add_metric(key, read(stats))
        yield family


def _parts(parts: definitions.Parts, models: _Models) -> Metric:
    name, meaning, label, reads = parts
    family = CounterMetricFamily(name, meaning, labels=(*_LABELS, label))
    for key, stats in models.items():
        for part, read in reads.items():
            if part != definitions.BETWEEN_STEPS or stats.slots or stats.has_several_runs:
                family.add_metric((*key, part), read(stats))
    return family


def _histogram(name: str, meaning: Meaning, values: Iterable[tuple[_Key, Histogram]]) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=_LABELS)
    for key, histogram in values:
        family.add_metric(key, histogram.buckets(), histogram.sum)
    return family
