"""What a measurement looks like: a table for people, JSON for programs, a plot for both."""

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
    """What was measured, as far as it came.

    Attributes:
        subject: What the server tells of itself and the model (subject.py).
        results: Of the runs that finished, in their order.
        best_rate: A search's answer, requests a second; None if no rate kept the bound, or nothing was searched.
        cut_short: What ended it before its last run, in a line; None if nothing did.
    """

    subject: dict[str, Any] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    best_rate: float | None = None
    cut_short: str | None = None


def table(results: Sequence[Result]) -> "Table":
    """Lay results out, one a row; how late the generator was (lag) stands there for open loops."""
    # Here, as the other commands do without.
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
    """What was said of the first error of each code, one a line."""
    # Runs repeat each other's errors; of two messages the earlier one stays.
    messages = {code: text for result in reversed(results) for code, text in result.error_messages.items()}
    return [f"{code}: {' '.join(text.split())}" for code, text in sorted(messages.items()) if text]


def load_name(result: Result) -> str:
    """Name the load of a run, e.g. "16 callers" or "120/s"."""
    if result.concurrency is not None:
        return f"{result.concurrency} caller{'s' if result.concurrency > 1 else ''}"
    return f"{result.rate:.4g}/s"


def check_writable(file: Path) -> None:
    """Find out before the load whether `file` could be written, and leave it as it is.

    Raises:
        OSError: It could not; names what stands in the way.
    """
    # Not by opening it: a pipe's reader would take the closing for the end.
    place = str(file) if file.exists() else f"{file.parent}/"
    os.stat(place)
    code = errno.EISDIR if file.is_dir() else None if os.access(place, os.W_OK) else errno.EACCES
    if code is not None:
        raise OSError(code, os.strerror(code), place)


def write_json(file: Path, settings: dict[str, Any], sweep: Sweep) -> None:
    """Write what was asked of what, by what, and what came of it. Raises OSError."""
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
    """Find out before the load whether a plot can be drawn into a file with this suffix.

    Raises:
        PlotUnavailable: Without matplotlib.
        ValueError: matplotlib does not write such files.
    """
    try:
        import matplotlib  # noqa: F401
        from matplotlib.figure import Figure
    except ImportError:
        raise PlotUnavailable("--plot needs matplotlib: pip install 'resonnx[bench]'") from None
    Figure().savefig(io.BytesIO(), format=file.suffix.removeprefix("."))


def write_plot(file: Path, title: str, results: Sequence[Result]) -> None:
    """Draw latency against throughput. Raises OSError or ValueError where the file cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    answered = [result for result in results if result.ok]
    _draw(axes, "-", [result for result in answered if result.concurrency is not None])
    # A search tries rates in no order.
    _draw(axes, "--", sorted((r for r in answered if r.rate is not None), key=lambda r: r.rate or 0.0))
    axes.set(xlabel="answers in time, a second", ylabel="latency, ms", title=title, yscale="log")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    if answered:
        axes.legend()
    figure.savefig(file)


def _draw(axes: Any, style: str, results: Sequence[Result]) -> None:
    """Draw runs of one kind of load as lines, with a colour for each percentile."""
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
