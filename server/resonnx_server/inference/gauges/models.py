"""Gauges of models, queues and predicted latencies, callers' device time, and the counter of rejected calls."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from resonnx_proto.v1.manifest_pb2 import Precision

from resonnx_server.inference.registry import Model, Models
from resonnx_server.observe.exposition import OTHERS
from resonnx_server.observe.series.meaning import Meaning
from resonnx_server.preprocessing.decode import Decoder

_MODEL: Final = ("model", "version")
_FILE: Final = (*_MODEL, "file")
# Beginning of the names of callers that are known by their certificate.
_CERTIFICATE: Final = "cert:"


class ServingCollector(Collector):
    """Reads the models at each scrape, on the event loop.

    Args:
        models: The registry.
        decoder: Decodes pictures.
        names_certificates: Callers with a client certificate are told by its name: they are configured, in the file of
            keys. Otherwise whoever gets a certificate could add a series.
    """

    def __init__(self, models: Models, decoder: Decoder, *, names_certificates: bool = False) -> None:
        self._models = models
        self._decoder = decoder
        self._names_certificates = names_certificates

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield self._ready()
        yield from _queues(self._models)
        yield from _sessions(self._models)
        yield from _device_time(self._models, names_certificates=self._names_certificates)
        yield self._unloaded()
        yield from self._life()
        yield GaugeMetricFamily(
            "resonnx_decode_queue_pictures",
            Meaning(
                "Pictures waiting to be decoded, of all models",
                "Steadily above 0: decoding is the bottleneck; send smaller pictures, or add processors.",
            ),
            value=self._decoder.waiting,
        )
        rejected = CounterMetricFamily(
            "resonnx_rejected_calls",
            Meaning(
                "Calls that ended with an error that no model counts",
                "KEY_… and CERTIFICATE_…: wrong keys. MODEL_NOT_FOUND: an unknown name. RATE_LIMITED: a key's limit.",
            ),
            labels=("reason",),
        )
        for reason, count in self._models.rejected.counts.items():
            rejected.add_metric((reason,), count)
        yield rejected

    def _ready(self) -> Metric:
        models = self._models
        ready = GaugeMetricFamily(
            "resonnx_model_ready",
            Meaning(
                "1 if the model is served, 0 while it loads or a session is replaced, or if it was refused or has "
                "stopped",
                "0 for long: `resonnx_model_state` and the log have the reason.",
            ),
            labels=_MODEL,
        )
        for model in models:
            ready.add_metric((model.name, str(model.version)), not model.engine.is_paused)
        for refusal in models.refused:
            ready.add_metric((refusal.name, str(refusal.version)), 0)
        for name, version in models.awaited:
            ready.add_metric((name, str(version)), 0)
        return ready

    def _unloaded(self) -> Metric:
        unloaded = GaugeMetricFamily(
            "resonnx_model_unloaded",
            Meaning(
                "1 if the sessions of a model are closed, as it is unused (`unload_unused_s`)",
                "1: its next request waits until they are open.",
            ),
            labels=_MODEL,
        )
        for model in self._models:
            unloaded.add_metric((model.name, str(model.version)), model.engine.is_unloaded)
        return unloaded

    def _life(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "resonnx_model_state",
            Meaning(
                "Always 1; state is found, verifying, loading, warming, ready, draining, unloaded or refused",
                "refused: the log and `resonnx repo ls` have the reason.",
            ),
            labels=(*_MODEL, "state"),
        )
        models = self._models
        for each in models.states():
            state.add_metric((each.name, str(each.version), each.state.value), 1)
        loads = CounterMetricFamily(
            "resonnx_model_loads",
            Meaning(
                "Loads that have ended; result is ready, refused, unchanged (other times, the same files) or dropped",
                "refused rises: a new version does not load or agree; the log has the reason, the old one serves.",
            ),
            labels=("model", "result"),
        )
        for (name, result), count in models.ended_loads.items():
            loads.add_metric((name, result), count)
        doubtful = GaugeMetricFamily(
            "resonnx_model_measurements_doubtful",
            Meaning(
                "1 if the model's batch times and sessions were measured while other processes held the processors, or "
                "too short; they are measured again while no request is under way, three times at most",
                "1 for long: the server is never idle, or others always use its processors. Run `resonnx-server tune` "
                "with the server's `cache_dir` in a quiet hour, and give the server processors of its own.",
            ),
            labels=_MODEL,
        )
        for model in models:
            doubtful.add_metric((model.name, str(model.version)), (model.name, model.version) in models.doubtful)
        remeasured = CounterMetricFamily(
            "resonnx_model_remeasurements",
            Meaning(
                "Attempts to measure a model again; result is replaced (it serves by what was found), given_up (a "
                "request came) or refused",
                "refused rises: the log has the reason; the model serves on as it did.",
            ),
            labels=("model", "result"),
        )
        for (name, result), count in models.remeasured.items():
            remeasured.add_metric((name, result), count)
        yield from (state, loads, doubtful, remeasured)


def _queues(models: Iterable[Model]) -> Iterator[Metric]:
    gauge = GaugeMetricFamily
    pending = gauge(
        "nv_inference_pending_request_count",
        Meaning("Queued requests; for captioners, queued pictures", "As `resonnx_queue_rows`."),
        labels=_MODEL,
    )
    in_progress = gauge(
        "resonnx_requests_in_progress",
        Meaning(
            "Requests without a response yet",
            "Grows while `nv_inference_request_success` does not: requests hang; look at the log.",
        ),
        labels=_MODEL,
    )
    rows = gauge(
        "resonnx_queue_rows",
        Meaning("Queued rows", "Grows steadily: more comes than the device can do; add servers, or limit callers."),
        labels=_MODEL,
    )
    oldest = gauge(
        "resonnx_queue_oldest_seconds",
        Meaning(
            "How long the oldest queued request has waited; 0 if none is queued",
            "Far above the queue time of others: a low priority, or a caller with more than its share, waits.",
        ),
        labels=_MODEL,
    )
    for model in models:
        labels = (model.name, str(model.version))
        pending.add_metric(labels, model.engine.queued())
        in_progress.add_metric(labels, model.stats.in_progress)
        rows.add_metric(labels, model.engine.queued_rows())
        oldest.add_metric(labels, model.engine.oldest_wait_ns() / 1e9)
    yield from (pending, in_progress, rows, oldest)


def _sessions(models: Iterable[Model]) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "resonnx_model_info",
        Meaning(
            "Always 1; how a model's file runs: provider and precision; verified_against is our_reading, user_answers "
            "or user_code, or none for an ONNX file without a manifest",
            "our_reading: compare the export with your model (`--expect`). An unexpected provider: the log tells why "
            "others were not taken.",
        ),
        labels=(*_FILE, "provider", "precision", "verified_against"),
    )
    instances = GaugeMetricFamily(
        "resonnx_instances",
        Meaning("Batches that can run at the same time", "1 on many processors: see `max_instances`."),
        labels=_FILE,
    )
    # Batches are chosen, and requests admitted, by these.
    expected = GaugeMetricFamily(
        "resonnx_batch_expected_seconds",
        Meaning(
            "Predicted latency of a batch",
            "A jump: the machine is slower, or has other work; see `resonnx_run_prediction_error_seconds_total`.",
        ),
        labels=(*_FILE, "batch_size"),
    )
    for model in models:
        for session in model.sessions:
            of_file, candidate = (model.name, str(model.version), session.file), session.candidate
            precision = Precision.Name(candidate.precision).removeprefix("PRECISION_").lower()
            info.add_metric((*of_file, candidate.provider, precision, model.verified_against), 1)
            instances.add_metric(of_file, session.instances)
            for size, cost in session.table.snapshot().items():
                expected.add_metric((*of_file, str(size)), cost.expected_ns / 1e9)
    yield from (info, instances, expected)


def _device_time(models: Iterable[Model], *, names_certificates: bool) -> Iterator[Metric]:
    served = CounterMetricFamily(
        "resonnx_caller_device_seconds",
        Meaning(
            "Predicted device time of batches by caller: key:NAME or cert:NAME of the file of keys, comparison (of "
            "versions), or other for all without a name in that file",
            "One far above the others: limit its key (`rate_per_s`, `max_concurrent`).",
        ),
        labels=(*_MODEL, "caller"),
    )
    comparing = CounterMetricFamily(
        "resonnx_comparison_processor_seconds",
        Meaning(
            "Processor time of the lanes for batches that compare versions: what a comparison's own runs take. Tensors "
            "only: steps of captions are shared with requests",
            "Too much: lower the comparison's share.",
        ),
        labels=_MODEL,
    )
    for model in models:
        labels = (model.name, str(model.version))
        comparing.add_metric(labels, model.engine.comparison_processor_ns / 1e9)
        by_caller: defaultdict[str, float] = defaultdict(float)
        for caller, ns in model.engine.served_ns().items():
            is_named = names_certificates or not caller.startswith(_CERTIFICATE)
            by_caller[caller if is_named else OTHERS] += ns
        for caller, ns in by_caller.items():
            served.add_metric((*labels, caller), ns / 1e9)
    yield from (served, comparing)
