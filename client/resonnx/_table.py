"""Text in columns."""

from collections.abc import Iterable


def table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Pad every column but the last to its widest cell, two spaces between."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
