"""Figures of several rounds: a table of medians and spreads, and a file with every round."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from reports.machine import machine
from rich.console import Console
from rich.table import Table


class Rounds:
    """Values by row, one a round. A row is named by its cells, left to right.

    Args:
        headers: Headers of those cells.
    """

    def __init__(self, *headers: str) -> None:
        self._headers = headers
        self._machine = machine()
        self._values: dict[tuple[str, ...], list[float]] = defaultdict(list)

    def add(self, *row: str, value: float) -> None:
        """Note one round's value of a row."""
        self._values[row].append(value)

    def median(self, *row: str) -> float:
        """Return the median of a row's rounds."""
        return median(self._values[row])

    def values(self, *row: str) -> list[float]:
        """Return a row's values, one a round."""
        return self._values.get(row, [])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Each row's cells by header, and its values under "rounds"."""
        return [
            {**dict(zip(self._headers, row, strict=True)), "rounds": values} for row, values in self._values.items()
        ]

    def show(self, against: Mapping[tuple[str, ...], tuple[str, ...]]) -> None:
        """Print the table.

        Args:
            against: For a row, that which its ratio is taken to, round by round.
        """
        table = Table(*self._headers, "median", "min .. max", "ratio", "min .. max")
        for row, values in self._values.items():
            cells = [*row, *_formatted(values)]
            if row in against:
                ratios = [value / other for value, other in zip(values, self._values[against[row]], strict=True)]
                cells += _formatted(ratios)
            table.add_row(*cells)
        Console(width=140).print(table)

    def write(self, path: Path, **more: object) -> None:
        """Write every round's values, the machine and further facts as JSON."""
        path.write_text(json.dumps({"machine": self._machine, **more, "rows": self.rows}, indent=1) + "\n")


def _formatted(values: Sequence[float]) -> list[str]:
    return [f"{median(values):.3g}", f"{min(values):.3g} .. {max(values):.3g}"]
