"""What serves at present: which models, how they run, what their batches cost, what waits; and calls that none got."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from resonnx_server.inference.registry import Models
from resonnx_server.preprocessing.decode import Decoder

_MODEL: Final = ("model", "version")
_FILE: Final = (*_MODEL, "file")


class ServingCollector(Collector):
    """Reads the models at each scrape, on the event loop."""

    def __init__(self, models: Models, decoder: Decoder) -> None:
        self._models = models
        self._decoder = decoder

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges. Expected times are those that batches are chosen, and requests admitted, by."""
        ready = GaugeMetricFamily(
            "resonnx_model_ready", "1 if it serves, 0 if it is being loaded or was refused", labels=_MODEL
        )
        pending = GaugeMetricFamily(
            "nv_inference_pending_request_count",
            "Requests that wait for a batch; of captioners, pictures",
            labels=_MODEL,
        )
        in_progress = GaugeMetricFamily(
            "resonnx_requests_in_progress", "Requests that have no answer yet", labels=_MODEL
        )
        queued = GaugeMetricFamily("resonnx_queue_rows", "Rows that wait for a batch", labels=_MODEL)
        instances = GaugeMetricFamily("resonnx_instances", "Batches that may run at once", labels=_FILE)
        expected = GaugeMetricFamily(
            "resonnx_batch_expected_seconds", "What a batch of a size should take", labels=(*_FILE, "batch_size")
        )
        spread = GaugeMetricFamily(
            "resonnx_batch_spread_seconds", "How far off that is, on average", labels=(*_FILE, "batch_size")
        )
        for model in self._models:
            labels = (model.name, str(model.version))
            ready.add_metric(labels, 1)
            pending.add_metric(labels, model.engine.queued())
            in_progress.add_metric(labels, model.stats.in_progress)
            queued.add_metric(labels, model.engine.queued_rows())
            for session in model.sessions:
                of_file = (*labels, session.file)
                instances.add_metric(of_file, session.instances)
                for size, cost in session.table.snapshot().items():
                    expected.add_metric((*of_file, str(size)), cost.expected_ns / 1e9)
                    spread.add_metric((*of_file, str(size)), cost.spread_ns / 1e9)
        for refusal in self._models.refused:
            ready.add_metric((refusal.name, str(refusal.version)), 0)
        for name, version in self._models.awaited.items():
            ready.add_metric((name, str(version)), 0)
        decoding = GaugeMetricFamily(
            "resonnx_decode_queue_pictures",
            "Pictures of all models that wait to be decoded, before any batch",
            value=self._decoder.waiting,
        )
        rejected = CounterMetricFamily(
            "resonnx_rejected_calls", "Calls that failed before any model had them, by why", labels=("reason",)
        )
        for reason, count in self._models.rejected.counts.items():
            rejected.add_metric((reason,), count)
        yield from (ready, pending, in_progress, queued, decoding, instances, expected, spread, rejected)
