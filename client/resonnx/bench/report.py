"""Writes a measurement as a table, as JSON and as a plot."""

import errno
import io
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resonnx.bench.summary import Result

if TYPE_CHECKING:
    from rich.table import Table


class PlotUnavailable(Exception):
    """matplotlib is not installed."""


@dataclass
class Sweep:
    """The results of a measurement.

    Attributes:
        subject: Versions of the server and the model, see subject.py.
        results: Results of the finished runs, in order.
        best_rate: Result of a search in requests per second; None if no rate was within the bound.
        cut_short: Reason why the measurement ended early, in one line, or None.
    """

    subject: dict[str, Any] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    best_rate: float | None = None
    cut_short: str | None = None


def table(results: Sequence[Result]) -> "Table":
    """Return a table with a row per result; open loops have a column for the generator's own lag."""
    # Imported here, as other commands do not need it.
    from rich import box
    from rich.table import Table

    lag = ["lag p99 ms"] if any(result.rate is not None for result in results) else []
    grid = Table(box=box.SIMPLE_HEAD, padding=0, collapse_padding=True)
    for heading in ("load", "per s", "p50 ms", "p90 ms", "p99 ms", "max ms", *lag, "refused", "late", "errors"):
        grid.add_column(heading, justify="right", no_wrap=heading != "errors")
    for result in results:
        times = [result.p50_ms, result.p90_ms, result.p99_ms, result.max_ms]
        if lag:
            times.append(result.lag_p99_ms)
        errors = ", ".join(f"{count} {code}" for code, count in result.errors.items())
        grid.add_row(
            load_name(result),
            f"{result.per_s:.1f}",
            *("-" if time is None else f"{time:.2f}" for time in times),
            str(result.refused),
            str(result.late),
            errors or "0",
        )
    return grid


def error_lines(results: Sequence[Result]) -> list[str]:
    """Return the message of the first error of each status code, one per line."""
    # The first message of a code is kept.
    messages = {code: text for result in reversed(results) for code, text in result.error_messages.items()}
    return [f"{code}: {' '.join(text.split())}" for code, text in sorted(messages.items()) if text]


def load_name(result: Result) -> str:
    """Return the name of a run's load, e.g. "16 callers" or "120/s"."""
    if result.concurrency is not None:
        return f"{result.concurrency} caller{'s' if result.concurrency > 1 else ''}"
    return f"{result.rate:.4g}/s"


def check_writable(file: Path) -> None:
    """Raise OSError, with the offending path, unless `file` can be written; leaves it unchanged."""
    # Not opened for the check, as the reader of a pipe would see its end.
    place = str(file) if file.exists() else f"{file.parent}/"
    os.stat(place)
    code = errno.EISDIR if file.is_dir() else None if os.access(place, os.W_OK) else errno.EACCES
    if code is not None:
        raise OSError(code, os.strerror(code), place)


def write_json(file: Path, settings: dict[str, Any], sweep: Sweep) -> None:
    """Write settings, versions and results as JSON. Raises OSError."""
    machine = {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()}
    content: dict[str, Any] = {
        "measured": sweep.subject,
        "settings": settings,
        "client": {"name": "resonnx", "version": version("resonnx")},
        "machine": machine,
        "runs": [asdict(result) for result in sweep.results],
        "cut_short": sweep.cut_short,
    }
    if settings.get("search_p99_ms") is not None:
        content["highest_rate"] = sweep.best_rate
    file.write_text(json.dumps(content, indent=1) + "\n")


def check_plot(file: Path) -> None:
    """Check that a plot can be written to a file with this suffix.

    Raises:
        PlotUnavailable: matplotlib is not installed.
        ValueError: matplotlib does not support the suffix.
    """
    try:
        import matplotlib  # noqa: F401
        from matplotlib.figure import Figure
    except ImportError:
        raise PlotUnavailable("--plot needs matplotlib: pip install 'resonnx[bench]'") from None
    Figure().savefig(io.BytesIO(), format=file.suffix.removeprefix("."))


def write_plot(file: Path, title: str, results: Sequence[Result]) -> None:
    """Plot latency against throughput. Raises OSError or ValueError if the file cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    answered = [result for result in results if result.ok]
    _draw(axes, "-", [result for result in answered if result.concurrency is not None])
    # A search does not try rates in ascending order.
    _draw(axes, "--", sorted((r for r in answered if r.rate is not None), key=lambda r: r.rate or 0.0))
    axes.set(xlabel="answers within the deadline per second", ylabel="latency, ms", title=title, yscale="log")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    if answered:
        axes.legend()
    figure.savefig(file)


def _draw(axes: Any, style: str, results: Sequence[Result]) -> None:
    """Draw the runs of one kind of load, with a line for each percentile."""
    if not results:
        return
    loop = "closed" if results[0].rate is None else "open"
    rates = [result.per_s for result in results]
    for color, name, times in (
        ("C0", "p50", [result.p50_ms for result in results]),
        ("C1", "p90", [result.p90_ms for result in results]),
        ("C3", "p99", [result.p99_ms for result in results]),
    ):
        axes.plot(rates, times, style, color=color, marker="o", label=f"{name}, {loop} loop")
    for result in results:
        axes.annotate(load_name(result), (result.per_s, result.p50_ms), xytext=(4, -12), textcoords="offset points")
