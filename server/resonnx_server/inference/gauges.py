"""Gauges of models, queues, predicted latencies and memory, and the counter of rejected calls."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from resonnx_server.inference.registry import Models
from resonnx_server.memory.budget import Budget
from resonnx_server.memory.regions import Regions
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
        gauge = GaugeMetricFamily
        of_size = (*_FILE, "batch_size")
        ready = gauge(
            "resonnx_model_ready",
            "1 if the model is served, 0 while it loads or a session is replaced, or if it was refused or has stopped",
            labels=_MODEL,
        )
        info = gauge(
            "resonnx_model_info",
            "Always 1; verified_against is our_reading, user_answers or user_code, or none for an ONNX file without a "
            "manifest",
            labels=(*_MODEL, "verified_against"),
        )
        pending = gauge(
            "nv_inference_pending_request_count", "Queued requests; for captioners, queued pictures", labels=_MODEL
        )
        in_progress = gauge("resonnx_requests_in_progress", "Requests without a response yet", labels=_MODEL)
        queued = gauge("resonnx_queue_rows", "Queued rows", labels=_MODEL)
        instances = gauge("resonnx_instances", "Batches that can run at the same time", labels=_FILE)
        expected = gauge("resonnx_batch_expected_seconds", "Predicted latency of a batch", labels=of_size)
        spread = gauge("resonnx_batch_spread_seconds", "Mean absolute error of that prediction", labels=of_size)
        served = CounterMetricFamily(
            "resonnx_caller_device_seconds",
            "Predicted device time of batches by caller: key:NAME, cert:NAME, comparison (of versions), or other for "
            "all addresses",
            labels=(*_MODEL, "caller"),
        )
        comparing = CounterMetricFamily(
            "resonnx_comparison_processor_seconds",
            "Processor time of the lanes for batches that compare versions: what a comparison's own runs take. Tensors "
            "only: steps of captions are shared with requests",
            labels=_MODEL,
        )
        for model in self._models:
            labels = (model.name, str(model.version))
            comparing.add_metric(labels, model.engine.comparison_processor_ns / 1e9)
            for caller, ns in model.engine.served_ns().items():
                served.add_metric((*labels, caller), ns / 1e9)
            ready.add_metric(labels, not model.engine.is_paused)
            info.add_metric((*labels, model.verified_against), 1)
            pending.add_metric(labels, model.engine.queued())
            in_progress.add_metric(labels, model.stats.in_progress)
            queued.add_metric(labels, model.engine.queued_rows())
            for session in model.sessions:
                of_file = (*labels, session.file)
                instances.add_metric(of_file, session.instances)
                for size, cost in session.table.snapshot().items():
                    expected.add_metric((*of_file, str(size)), cost.expected_ns / 1e9)
                    spread.add_metric((*of_file, str(size)), cost.spread_ns / 1e9)
        abandoned = gauge("resonnx_abandoned_threads", "Threads left with runs that do not end", labels=("device",))
        for device in {model.engine.device for model in self._models}:
            abandoned.add_metric((device.name,), device.abandoned())
        for refusal in self._models.refused:
            ready.add_metric((refusal.name, str(refusal.version)), 0)
        for name, version in self._models.awaited:
            ready.add_metric((name, str(version)), 0)
        state = gauge(
            "resonnx_model_state",
            "Always 1; state is found, verifying, loading, warming, ready, draining, unloaded or refused",
            labels=(*_MODEL, "state"),
        )
        for each in self._models.states():
            state.add_metric((each.name, str(each.version), each.state.value), 1)
        loads = CounterMetricFamily(
            "resonnx_model_loads",
            "Loads that have ended; result is ready, refused, unchanged (other times, the same files) or dropped",
            labels=("model", "result"),
        )
        for (name, result), count in self._models.ended_loads.items():
            loads.add_metric((name, result), count)
        decoding = GaugeMetricFamily(
            "resonnx_decode_queue_pictures",
            "Pictures waiting to be decoded, of all models",
            value=self._decoder.waiting,
        )
        rejected = CounterMetricFamily(
            "resonnx_rejected_calls", "Calls that ended with an error that no model counts", labels=("reason",)
        )
        for reason, count in self._models.rejected.counts.items():
            rejected.add_metric((reason,), count)
        yield from (ready, info, pending, in_progress, queued, decoding, instances, expected, spread, served)
        yield from (abandoned, rejected, state, loads, comparing)


class MemoryCollector(Collector):
    """Reads the memory budget, and the registered shared memory, at each scrape, on the event loop."""

    def __init__(self, budget: Budget, decoder: Decoder, regions: Regions) -> None:
        self._budget = budget
        self._decoder = decoder
        self._regions = regions

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        budget, decoder = self._budget, self._decoder
        for name, documentation, value in (
            ("resonnx_memory_budget_bytes", "Setting memory_budget_bytes, or its default", budget.max_bytes),
            ("resonnx_memory_requests_max_bytes", "Part of the budget that is left to requests", budget.most),
            ("resonnx_memory_batches_bytes", "Part of the budget that is kept for models' batches", budget.for_batches),
            ("resonnx_memory_requests_bytes", "Memory charged to requests: messages, tensors, answers", budget.used),
            ("resonnx_memory_unseen_bytes", "Memory of the process beyond all charges, counted as used", budget.unseen),
            ("resonnx_memory_decoding_bytes", "Predicted memory of large pictures in decoding", decoder.large_bytes),
            ("resonnx_memory_callers", "Callers that hold memory of the budget", budget.callers),
            ("resonnx_shared_memory_regions", "Registered regions of system shared memory", len(self._regions)),
            ("resonnx_shared_memory_bytes", "Sum of these regions, outside the budget", self._regions.nbytes),
        ):
            yield GaugeMetricFamily(name, documentation, value=value)
