"""Prints docs/metrics.md, the reference of all metrics; `make metrics` runs it."""

from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import Metric
from resonnx_server.comparison.collector import ComparisonCollector
from resonnx_server.comparison.comparisons import Comparisons
from resonnx_server.drift.collector import DriftCollector
from resonnx_server.errors import FailureReason
from resonnx_server.inference.gauges.devices import DeviceCollector
from resonnx_server.inference.gauges.memory import MemoryCollector
from resonnx_server.inference.gauges.models import ServingCollector
from resonnx_server.inference.gauges.videos import VideoCollector
from resonnx_server.inference.registry import Models
from resonnx_server.memory.budget import Budget
from resonnx_server.memory.regions import Regions
from resonnx_server.observe.certificate import CertificateCollector
from resonnx_server.observe.exposition import ExactCounter
from resonnx_server.observe.metrics import Metrics
from resonnx_server.observe.series.meaning import Meaning
from resonnx_server.preprocessing.decode import Decoder

_HEAD = """\
# Metrics of resonnx-server

<!-- Made by `make metrics` from the definitions in the server: change them there. -->

`GET /metrics` on the HTTP port (8002 by default), in Prometheus' text format (0.0.4) or, if the `Accept` header names
it, OpenMetrics (1.0.0); gzipped if `Accept-Encoding` allows it. Names and values are the same in both formats, types
too, except that Triton's counters (`nv_*`) are of type unknown in OpenMetrics, where a counter's name must end in
`_total`.

Labels come from loaded models, from fixed lists and, for callers, from the file of keys, never from requests. So the
number of series is limited: a classifier has at most 200, a captioner 260, with three named callers; each further one
that uses it adds one. The setting `prediction_metrics` switches off those that tell what classifiers predict
(`resonnx_predicted_class_ratio`, `resonnx_prediction_confidence`, `resonnx_prediction_entropy`).

In OpenMetrics, buckets of `resonnx_request_duration_seconds` and of its stages have exemplars: the `trace_id` of the
last request in the bucket whose header `traceparent` (W3C Trace Context) says that its caller records the trace.
Callers that may use some models only see none. Prometheus keeps them with `--enable-feature=exemplar-storage`.

A success, and an error, is counted once:
by the request's model, or by `resonnx_rejected_calls_total` if no model counts it. Durations in µs are sums over
requests, as in Triton. `ModelStatistics`, and `/v2/models/stats` over HTTP, have the same counters, which go on when a
version is loaded again.

| event | counted in |
|---|---|
| each request of a stream, each frame of a video's stream, each picture of a form | as a request of its own |
| no key or role, a limit of the key, an unknown model or version, a message that cannot be read | `resonnx_rejected_calls_total` |
| no memory to receive a message; over HTTP also a deadline that passes while the body is received or read | `resonnx_rejected_calls_total` |
| an error of a call about models, regions, settings, versions or statistics | `resonnx_rejected_calls_total`; not of calls of health, and of `ModelReady` no missing model |
| a full queue, no memory for a request that is read, wrong tensors, priorities or regions, a failed run, a deadline that passes | the model's failures |
| a caller that leaves, or a server that stops, while its request waits or runs | the model's failures (`CANCELLED`); rows that have run count in `nv_inference_count` |
| a caller that leaves, or a gRPC deadline that passes, before the request is read and its handler starts | nowhere |
| an answer that is complete and is not delivered (its caller leaves, or its stream ends) | the model's successes |
| the server ends a call with a complete answer: it is not read in time, or there is no memory to send it | the model's successes, and the error in `resonnx_rejected_calls_total` |
| the server ends a stream: its reader is slow, memory is spent, a shutdown | each of its requests as above, and the error once in `resonnx_rejected_calls_total` |
| an output that has no room in its region, an answer that is too large or finds no memory | the model's failures; its rows count in `nv_inference_count` |
| a message far too large, which gRPC refuses itself; a path that is no page | nowhere |
"""  # noqa: E501

_REASONS = """\

Values of `reason`:

- in `nv_inference_request_failure`, as in Triton: {failures};
- in `resonnx_request_errors_total`: the reason in the response (`google.rpc.ErrorInfo`), or `CANCELLED`;
- in `resonnx_rejected_calls_total`: {rejected}.

In addition, there are `process_*` and `python_info`, as in any Python program with `prometheus_client`.
"""


def reference() -> str:
    """Return the reference of all metrics, as Markdown."""
    models, metrics = Models(), Metrics()
    decoder = Decoder(threads=0)
    metrics.registry.register(ServingCollector(models, decoder))
    metrics.registry.register(DriftCollector(lambda: ()))
    metrics.registry.register(MemoryCollector(Budget(0), decoder, Regions()))
    metrics.registry.register(DeviceCollector(models))
    metrics.registry.register(VideoCollector(models))
    metrics.registry.register(CertificateCollector(lambda: 0.0))
    metrics.registry.register(ComparisonCollector(Comparisons(models, Budget(0))))
    families = [family for family in metrics.registry.collect() if family.name.startswith(("nv_", "resonnx_"))]
    reasons = _REASONS.format(failures=_listed(FailureReason), rejected=_listed(models.rejected.counts))
    return "".join([_HEAD, *_table(sorted(families, key=lambda family: family.name)), reasons])


def _table(families: list[Metric]) -> Iterator[str]:
    yield "\n| metric | type | labels | meaning | if it looks wrong |\n|---|---|---|---|---|\n"
    for family in families:
        is_counter = family.type == "counter"
        name = f"{family.name}_total" if is_counter else family.name
        kind = "counter" if isinstance(family, ExactCounter) else family.type
        labels, meaning = _listed(getattr(family, "_labelnames", ())), family.documentation
        if not isinstance(meaning, Meaning):
            raise SystemExit(f"{name} has no advice: its help must be a Meaning")
        yield f"| `{name}` | {kind} | {labels} | {meaning}. | {meaning.advice} |\n"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    print(reference(), end="")
