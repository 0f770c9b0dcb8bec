"""`python -m resonnx_server.metrics_reference`: prints docs/metrics.md, the reference of all metrics."""

from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import Metric

from resonnx_server.inference.gauges import ServingCollector
from resonnx_server.inference.registry import Models
from resonnx_server.observe.exposition import ExactCounter
from resonnx_server.observe.metrics import Metrics
from resonnx_server.observe.stats import FailureReason
from resonnx_server.preprocessing.decode import Decoder

_HEAD = """\
# Metrics of resonnx-server

<!-- Made by `make metrics` from server/resonnx_server/observe/: change it there. -->

`GET /metrics` on the HTTP port (8002 by default), in Prometheus' text format (0.0.4) or, if the `Accept` header names
it, OpenMetrics (1.0.0); gzipped if `Accept-Encoding` allows it. Names and values are the same in both formats. So are
types, but for Triton's counters (`nv_*`): OpenMetrics has no counters whose names do not end in `_total`, so they are
of type unknown there.

Labels come from loaded models and from closed lists, never from requests. A request is counted once: by its model, as
success or failure, or, where it ended before a model was found, by `resonnx_rejected_calls_total`, as calls that
only ask about models are. Each request of a stream counts by itself. What gRPC ends by itself (a message that is far
too large, a caller who leaves before the request is read) is seen by neither. Durations in µs are sums over requests,
as in Triton.
"""

_REASONS = """\

What `reason` may be:

- of `nv_inference_request_failure`, as in Triton: {failures};
- of `resonnx_request_errors_total`: what the caller was told (`google.rpc.ErrorInfo`), or `CANCELLED`;
- of `resonnx_rejected_calls_total`: {rejected}.

Beside these there are `process_*` and `python_info`, as of any Python program with `prometheus_client`.
"""


def reference() -> str:
    """Return the reference of all metrics, as Markdown."""
    models, metrics = Models(), Metrics()
    metrics.registry.register(ServingCollector(models, Decoder(threads=0)))
    families = [family for family in metrics.registry.collect() if family.name.startswith(("nv_", "resonnx_"))]
    reasons = _REASONS.format(failures=_listed(FailureReason), rejected=_listed(models.rejected.counts))
    return "".join([_HEAD, *_table(sorted(families, key=lambda family: family.name)), reasons])


def _table(families: list[Metric]) -> Iterator[str]:
    yield "\n| metric | type | labels | meaning |\n|---|---|---|---|\n"
    for family in families:
        is_counter = family.type == "counter"
        name = f"{family.name}_total" if is_counter else family.name
        kind = "counter" if isinstance(family, ExactCounter) else family.type
        yield f"| `{name}` | {kind} | {_listed(getattr(family, '_labelnames', ()))} | {family.documentation}. |\n"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    print(reference(), end="")
