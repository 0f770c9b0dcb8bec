"""Plots of the results page: figures against their bounds, and latency against throughput."""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from resonnx.bench.report import PlotUnavailable, check_plot

_COLOURS: Final = {"aim": "C2", "must": "C0", "NO": "C3", "": "0.4"}
_MEANINGS: Final = {"aim": "aim reached", "must": "kept", "NO": "missed", "": "nothing promised"}
# Of numbers of callers.
_MARKS: Final = ("o", "^", "s", "D")
# A value beyond is drawn at the edge.
_MOST: Final = 2.5


@dataclass(frozen=True)
class Line:
    """One figure of several rounds.

    Attributes:
        values: One per round, in the axis's unit, like `must` and `aim`.
        text: The median and its bounds, in the figure's own unit.
        at_least: Whether more is better.
        met: "aim", "must", "NO", or "" where nothing is promised.
    """

    name: str
    what: str
    values: Sequence[float]
    text: str
    must: float | None
    aim: float | None
    at_least: bool = True
    met: str = ""


@dataclass(frozen=True)
class Load:
    """So many callers: answers a second and latencies in ms, a value for each round."""

    callers: int
    per_s: Sequence[float]
    p50_ms: Sequence[float]
    p99_ms: Sequence[float]


@dataclass(frozen=True)
class Answers:
    """A server's answers a second in each round, its p99 in ms, and answers a second at other numbers of callers."""

    per_s: Sequence[float]
    p99_ms: float
    others: Mapping[int, float]


def png(text: str) -> Path:
    """Read a command's argument. Raises ArgumentTypeError before anything is measured if no plot could be written."""
    file = Path(text)
    if file.suffix != ".png":
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .png")
    if not file.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: there is no folder {str(file.parent)!r}")
    try:
        check_plot(file)
    except PlotUnavailable as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return file


def draw_lines(file: Path, title: str, lines: Sequence[Line]) -> None:
    """Draw each figure's median and range on one axis; the side on which its bound is kept is shaded."""
    figure = _figure(12, 1.3 + 0.5 * len(lines))
    axes = figure.subplots()
    edge = min(_MOST, 1.05 * max([1.5, *(max(line.values) for line in lines)]))
    for y, line in enumerate(lines):
        colour = _COLOURS[line.met]
        if line.must is not None:
            kept = (line.must, edge) if line.at_least else (0, line.must)
            axes.fill_betweenx((y - 0.38, y + 0.38), *kept, color="C2", alpha=0.1, linewidth=0)
            axes.plot([line.must] * 2, [y - 0.38, y + 0.38], color="0.2", linewidth=1.5)
        if line.aim is not None:
            axes.plot([line.aim] * 2, [y - 0.38, y + 0.38], color="0.2", linewidth=1, linestyle=":")
        least, most, middle = (min(of(line.values), edge) for of in (min, max, statistics.median))
        axes.plot([least, most], [y, y], color=colour, linewidth=3, solid_capstyle="butt", alpha=0.5)
        axes.plot(middle, y, "o", color=colour, markersize=8, clip_on=False)
        axes.annotate(line.text, (1.02, y), xycoords=("axes fraction", "data"), va="center", color=colour, fontsize=9)
    direction = {True: "", False: "  (lower is better)"}
    names = [f"{line.name}{direction[line.at_least]}\n{line.what}" for line in lines]
    axes.set_yticks(range(len(lines)), names, fontsize=8)
    axes.set(xlim=(0, edge), ylim=(len(lines) - 0.5, -0.5), title=title)
    axes.grid(axis="x", alpha=0.3)
    shown = [met for met in _COLOURS if any(line.met == met for line in lines)]
    keys: list[Any] = [axes.plot([], [], "o", color=_COLOURS[met], label=_MEANINGS[met])[0] for met in shown]
    if any(line.must is not None for line in lines):
        keys.append(axes.plot([], [], color="0.2", linewidth=1.5, label="must; shaded where it is kept")[0])
    if any(line.aim is not None for line in lines):
        keys.append(axes.plot([], [], color="0.2", linewidth=1, linestyle=":", label="aim")[0])
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), fontsize=9, frameon=False)
    figure.savefig(file)


def draw_loads(file: Path, models: Mapping[str, Sequence[Load]]) -> None:
    """Draw latency against throughput, one model beside the other: medians of the rounds, and their ranges."""
    from matplotlib.ticker import LogLocator

    figure = _figure(6 * len(models), 4.8)
    for axes, (name, loads) in zip(figure.subplots(ncols=len(models), squeeze=False)[0], models.items(), strict=True):
        rates = [statistics.median(load.per_s) for load in loads]
        rate_ranges = _ranges([load.per_s for load in loads])
        for colour, label, rounds in (
            ("C0", "p50", [load.p50_ms for load in loads]),
            ("C3", "p99", [load.p99_ms for load in loads]),
        ):
            times = [statistics.median(values) for values in rounds]
            axes.errorbar(rates, times, _ranges(rounds), rate_ranges, "o-", color=colour, label=label, elinewidth=0.8)
        for rate, load in zip(rates, loads, strict=True):
            below = (rate, statistics.median(load.p50_ms))
            axes.annotate(str(load.callers), below, (4, -13), textcoords="offset points", fontsize=9)
        axes.set(xlabel="answers a second (beside each point: callers)", ylabel="latency, ms", title=name, yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.set_xlim(0, 1.08 * max(max(load.per_s) for load in loads))
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left")
    figure.savefig(file)


def draw_servers(file: Path, panels: Mapping[str, Mapping[str, Answers]], ours: str) -> None:
    """Draw servers' answers as bars, the most on top, with ranges, p99 and marks for other numbers of callers.

    Args:
        file: A PNG file.
        panels: Answers by title and server.
        ours: How the names of servers begin that are drawn in another colour.
    """
    figure = _figure(6.4 * len(panels), 1.9 + 0.36 * max(map(len, panels.values())))
    places = figure.subplots(ncols=len(panels), squeeze=False)[0]
    counts = sorted({count for servers in panels.values() for found in servers.values() for count in found.others})
    for axes, (title, servers) in zip(places, panels.items(), strict=True):
        ordered = sorted(servers.items(), key=lambda server: statistics.median(server[1].per_s))
        found = [answers for _, answers in ordered]
        rounds = [answers.per_s for answers in found]
        colours = ["C0" if name.startswith(ours) else "0.75" for name, _ in ordered]
        medians = [statistics.median(rates) for rates in rounds]
        axes.barh(range(len(ordered)), medians, xerr=_ranges(rounds), color=colours, error_kw={"elinewidth": 0.8})
        for mark, count in zip(_MARKS, counts, strict=False):
            given = [(answers.others[count], y) for y, answers in enumerate(found) if count in answers.others]
            if given:
                axes.plot(*zip(*given, strict=True), mark, color="0.1", markersize=5, fillstyle="none")
        for y, answers in enumerate(found):
            right = max([*answers.per_s, *answers.others.values()])
            axes.annotate(f"  p99 {answers.p99_ms:.0f} ms", (right, y), va="center", fontsize=8)
        axes.set_yticks(range(len(ordered)), [name for name, _ in ordered], fontsize=9)
        most = max(max([*answers.per_s, *answers.others.values()]) for answers in found)
        axes.set(title=title, xlabel="answers a second, median and range", xlim=(0, 1.35 * most))
        axes.grid(axis="x", alpha=0.3)
    keys = [
        places[0].plot(
            [], [], mark, color="0.1", fillstyle="none", label="1 caller" if count == 1 else f"{count} callers"
        )[0]
        for mark, count in zip(_MARKS, counts, strict=False)
    ]
    if keys:
        figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), fontsize=9, frameon=False)
    figure.savefig(file)


def _ranges(rounds: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return how far each one's rounds reach below and above their median."""
    medians = [statistics.median(values) for values in rounds]
    below = [middle - min(values) for middle, values in zip(medians, rounds, strict=True)]
    return [below, [max(values) - middle for middle, values in zip(medians, rounds, strict=True)]]


def _figure(width: float, height: float) -> Any:
    # Here, as measuring does without.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=110)
