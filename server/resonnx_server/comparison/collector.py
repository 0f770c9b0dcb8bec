"""Metrics of comparisons under way, and of the last one of each model."""

from collections.abc import Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from resonnx_server.comparison.comparisons import Comparisons
from resonnx_server.observe.series.meaning import Meaning

_LABELS: Final = ("model", "version")


class ComparisonCollector(Collector):
    """Reads the comparisons at each scrape, on the event loop."""

    def __init__(self, comparisons: Comparisons) -> None:
        self._comparisons = comparisons

    def collect(self) -> Iterable[Metric]:
        """Yield the families."""
        state = GaugeMetricFamily(
            "resonnx_comparison_state",
            Meaning(
                "Always 1; state of the comparison of a new version is running, promoted, rolled back or ended",
                "rolled back: the log and `resonnx repo status` have the differences.",
            ),
            labels=(*_LABELS, "mode", "state"),
        )
        answers = CounterMetricFamily(
            "resonnx_comparison_answers",
            Meaning(
                "Answers for pictures compared with the serving version's; result is equal or different, failed (the "
                "new version gave none) or dropped (not compared, as too many waited)",
                "failed: the log has the errors. Many dropped: the device is busy; lower the share.",
            ),
            labels=(*_LABELS, "result"),
        )
        largest = GaugeMetricFamily(
            "resonnx_comparison_probability_difference_max",
            Meaning("Largest difference of a probability in the comparison", "Large: keep pictures (`--keep`)."),
            labels=_LABELS,
        )
        total = CounterMetricFamily(
            "resonnx_comparison_probability_difference",
            Meaning(
                "Sum over compared answers of the largest difference of a probability",
                "Large for each answer: the new version was trained otherwise, or prepares pictures otherwise.",
            ),
            labels=_LABELS,
        )
        edits = CounterMetricFamily(
            "resonnx_comparison_edits",
            Meaning(
                "Sum over compared captions of their edit distance in words",
                "As `resonnx_comparison_probability_difference_total`.",
            ),
            labels=_LABELS,
        )
        compute = GaugeMetricFamily(
            "resonnx_comparison_compute_ratio",
            Meaning(
                "Median compute time at equal batch size, as a multiple of the serving version's",
                "Above 1: the new version is slower; size the device for it before you promote it.",
            ),
            labels=_LABELS,
        )
        waiting = GaugeMetricFamily(
            "resonnx_comparison_waiting_pictures",
            Meaning("Copies of pictures that wait for an idle device", "Many: the device is never idle."),
            labels=_LABELS,
        )
        for each in self._comparisons.status():
            labels, evidence = (each.name, str(each.new_version)), each.evidence
            state.add_metric((*labels, each.plan.mode.value, each.state.value), 1)
            results = {
                "equal": evidence.agreeing,
                "different": evidence.n - evidence.agreeing,
                "failed": evidence.errors,
                "dropped": each.copies.dropped,
            }
            for result, count in results.items():
                answers.add_metric((*labels, result), count)
            largest.add_metric(labels, evidence.dp_max)
            total.add_metric(labels, evidence.dp_sum)
            edits.add_metric(labels, evidence.edits)
            if evidence.compute is not None:
                compute.add_metric(labels, evidence.compute)
            waiting.add_metric(labels, len(each.copies))
        yield from (state, answers, largest, total, edits, compute, waiting)
