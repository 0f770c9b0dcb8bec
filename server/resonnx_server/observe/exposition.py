"""Writes metrics in Prometheus' text format (0.0.4) or OpenMetrics (1.0.0).

Not prometheus_client's writer: its counters' names must end in `_total`, Triton's do not.
"""

import gzip
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from prometheus_client.metrics_core import Metric, UntypedMetricFamily
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

# Value of the label `caller` for all that have no name of their own.
OTHERS: Final = "other"


class Format(Enum):
    """A format; its value is its content type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class ExactCounter(UntypedMetricFamily):
    """A counter whose name need not end in `_total`; its type is unknown in OpenMetrics."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What a caller sees that may use some models only.

    Attributes:
        models: Their names; samples of no model are shown as well.
        caller: The caller's name; all other callers are shown as one, OTHERS.
    """

    models: frozenset[str]
    caller: str


def accepted_format(accept: str | None) -> Format:
    """Return the format for an Accept header: OpenMetrics if it is named and text is not preferred."""
    exact, text = 0.0, 0.0
    for value, parameters, quality in _entries(accept):
        if value == "application/openmetrics-text" and parameters.get("version", "1.0.0") in ("0.0.1", "1.0.0"):
            exact = max(exact, quality)
        elif value == "text/plain" and parameters.get("version", "0.0.4") == "0.0.4":
            text = max(text, quality)
    return Format.OPENMETRICS if exact and exact >= text else Format.TEXT


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether an Accept-Encoding header allows gzip."""
    qualities = {value: quality for value, _, quality in _entries(accept_encoding)}
    return qualities.get("gzip", qualities.get("*", 0.0)) > 0


def page(families: Iterable[Metric], written: Format, sight: Sight | None = None, *, compressed: bool) -> bytes:
    """Return the page of all families that have samples. Thread-safe.

    Args:
        families: The metrics.
        written: The format.
        sight: The samples that are shown; None for all.
        compressed: With gzip.
    """
    shown = ((family, family.samples if sight is None else _seen(family.samples, sight)) for family in families)
    lines = [line for family, samples in shown if samples for line in _lines(family, samples, written)]
    if written is Format.OPENMETRICS:
        lines.append("# EOF\n")
    content = "".join(lines).encode()
    return gzip.compress(content, 5) if compressed else content


def _seen(samples: list[Sample], sight: Sight) -> list[Sample]:
    """Return the samples of what a caller sees; those of other callers are summed up.

    Exemplars are left out: they name traces of other callers.
    """
    seen: list[Sample] = []
    of_others: dict[tuple[str, ...], int] = {}
    for sample in samples:
        if (model := sample.labels.get("model")) is not None and model not in sight.models:
            continue
        if sample.labels.get("caller", sight.caller) == sight.caller:
            seen.append(sample if sample.exemplar is None else sample._replace(exemplar=None))
            continue
        labels = {**sample.labels, "caller": OTHERS}
        place = of_others.setdefault(tuple(labels.values()), len(seen))
        if place == len(seen):
            seen.append(sample._replace(labels=labels))
        else:
            seen[place] = seen[place]._replace(value=seen[place].value + sample.value)
    return seen


def _lines(family: Metric, samples: list[Sample], written: Format) -> Iterator[str]:
    name, kind, documentation = family.name, family.type, _escaped(family.documentation)
    if written is Format.OPENMETRICS:
        documentation = documentation.replace('"', '\\"')
    elif isinstance(family, ExactCounter):
        kind = "counter"
    elif kind == "counter":
        name += "_total"
    elif kind == "info":
        name, kind = f"{name}_info", "gauge"
    elif kind == "unknown":
        kind = "untyped"
    yield f"# HELP {name} {documentation}\n"
    yield f"# TYPE {name} {kind}\n"
    for sample in samples:
        yield f"{_line(sample)}{_example(sample) if written is Format.OPENMETRICS else ''}\n"


def _line(sample: Sample) -> str:
    value = floatToGoString(sample.value)  # type: ignore[no-untyped-call]
    if not sample.labels:
        return f"{sample.name} {value}"
    return f"{sample.name}{_labels(sample.labels)} {value}"


def _example(sample: Sample) -> str:
    exemplar = sample.exemplar
    if exemplar is None:
        return ""
    value = floatToGoString(exemplar.value)  # type: ignore[no-untyped-call]
    return f" # {_labels(exemplar.labels)} {value} {exemplar.timestamp:.3f}"


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{key}="{_escaped_value(label)}"' for key, label in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _escaped_value(text: str) -> str:
    return _escaped(text).replace('"', '\\"')


def _entries(header: str | None) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield each value of an Accept header, its parameters, and its quality (0 if invalid)."""
    for entry in (header or "").lower().split(","):
        value, *rest = (part.strip() for part in entry.split(";"))
        parameters = {key.strip(): text.strip().strip('"') for key, _, text in (part.partition("=") for part in rest)}
        try:
            quality = float(parameters.get("q", "1"))
        except ValueError:
            quality = 0.0
        if value:
            yield value, parameters, quality if 0 <= quality <= 1 else 0.0
