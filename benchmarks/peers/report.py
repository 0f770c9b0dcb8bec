"""Figures of servers that are compared: kept round by round, as a table, as a plot."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from peers.load import Outcome
from reports import chart
from reports.machine import machine
from rich.console import Console
from rich.table import Table


@dataclass
class Cell:
    """A server under so many callers; one value a round.

    Attributes:
        per_s: Answers a second.
        processor_ms: Processor time of all its processes for an answer, in ms.
        p50_ms, p99_ms, p999_ms: Of a round's answers.
        answers: That were timed.
    """

    per_s: list[float] = field(default_factory=list)
    processor_ms: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    p999_ms: list[float] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    def add(self, outcome: Outcome, seconds: float, processor_s: float) -> None:
        """Add a round: its answers, and their processor time in seconds."""
        times = sorted(outcome.times_ms)
        if not times:
            raise RuntimeError(f"no answer within {seconds} s")
        self.per_s.append(len(times) / seconds)
        self.processor_ms.append(processor_s * 1e3 / outcome.answers)
        for values, share in ((self.p50_ms, 0.5), (self.p99_ms, 0.99), (self.p999_ms, 0.999)):
            values.append(times[min(int(share * len(times)), len(times) - 1)])
        self.answers.append(len(times))


@dataclass
class Server:
    """A server that was measured.

    Attributes:
        name, version: Of its package.
        settings: In which it was fastest.
        facts: memory_mb (the most after a load), ready_s, install_mb.
        cells: By number of callers.
    """

    name: str
    version: str
    settings: Mapping[str, str]
    facts: Mapping[str, float]
    cells: dict[int, Cell]

    def written(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    @classmethod
    def read(cls, content: dict[str, Any]) -> "Server":
        """Read what `written` gave."""
        cells = {int(callers): Cell(**cell) for callers, cell in content["cells"].items()}
        return cls(**{**content, "cells": cells})

    @staticmethod
    def joined(before: Sequence["Server"], now: Sequence["Server"]) -> list["Server"]:
        """Return the servers of two runs; what both have measured is the later one's."""
        found = {server.name: server for server in before}
        for server in now:
            old = found.get(server.name)
            found[server.name] = Server(
                server.name, server.version, server.settings, server.facts,
                {**(old.cells if old else {}), **server.cells},
            )  # fmt: skip
        return list(found.values())


def write(file: Path, servers: Sequence[Server]) -> None:
    """Write every round's values, and the machine, as JSON."""
    content = {"machine": machine(), "servers": [server.written() for server in servers]}
    file.write_text(json.dumps(content, indent=1) + "\n")


def show(servers: Sequence[Server]) -> None:
    """Print the table."""
    table = Table("server", "callers", "answers/s", "min .. max", "p50 ms", "p99", "p99.9", "processor ms each")
    for callers in sorted({callers for server in servers for callers in server.cells}):
        for server in servers:
            if cell := server.cells.get(callers):
                table.add_row(
                    server.name,
                    str(callers),
                    f"{median(cell.per_s):.1f}",
                    f"{min(cell.per_s):.1f} .. {max(cell.per_s):.1f}",
                    *(f"{median(values):.0f}" for values in (cell.p50_ms, cell.p99_ms, cell.p999_ms)),
                    f"{median(cell.processor_ms):.1f}",
                )
    facts = Table("server", "version", "memory MB", "ready s", "installed MB", "settings")
    for server in servers:
        numbers = [f"{server.facts.get(name, 0):.3g}" for name in ("memory_mb", "ready_s", "install_mb")]
        settings = ", ".join(f"{name.removeprefix('PEER_').lower()} {value}" for name, value in server.settings.items())
        facts.add_row(server.name, server.version, *numbers, settings)
    console = Console(width=150)
    console.print(table)
    console.print(facts)


def plot(file: Path, servers: Sequence[Server]) -> None:
    """Draw answers a second by callers, and p99: a line for each server."""
    cells = {server.name: dict(sorted(server.cells.items())) for server in servers}
    chart.draw_servers(
        file,
        {name: {count: (cell.per_s, cell.p99_ms) for count, cell in found.items()} for name, found in cells.items()},
    )
