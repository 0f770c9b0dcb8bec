"""Shows figures of servers that were compared as tables in Markdown, and draws them.

    PYTHONPATH=benchmarks python -m peers.report FILE.json [FILE.json …] [--plot FILE.png]

FILE.json is what peers.pictures or peers.captions wrote.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from peers.figures import Server, read
from reports import chart

_OURS: Final = "resonnx"
# Of which latencies, processor time and the plot are told.
_CALLERS: Final = 16


def tables(asked: str, servers: Sequence[Server]) -> str:
    """Return the figures of a file: answers a second, latencies and costs, then resonnx relative to the others."""
    counts = sorted({count for server in servers for count in server.rounds})
    rates = [f"answers/s, {count}" for count in counts]
    heads = [asked, *rates, "p50 ms", "p99", "p99.9", "processor ms", "memory MB", "ready s", "installed MB"]
    rows = [heads, ["---"] * len(heads)]
    for server in sorted(servers, key=lambda server: -median(server.rates(_CALLERS) or [0])):
        cells = [_range(server.rates(count)) for count in counts]
        times = [_number(server.latency_ms(_CALLERS, share)) for share in (0.5, 0.99, 0.999)]
        cost = f"{server.processor_ms(_CALLERS):.1f}" if _CALLERS in server.rounds else ""
        facts = [_number(server.facts.get(name)) for name in ("memory_mb", "ready_s", "install_mb")]
        rows.append([server.name, *cells, *times, cost, *facts])
    ours = [server for server in servers if server.name.startswith(_OURS)]
    compared = [["relative to", *(f"{server.name}, {count}" for server in ours for count in counts)]]
    compared.append(["---"] * len(compared[0]))
    for other in servers:
        if not other.name.startswith(_OURS):
            ratios = [_range(server.ratios(other, count), 2) for server in ours for count in counts]
            compared.append([other.name, *ratios])
    best = [["server", "version", "settings"], ["---"] * 3]
    for server in servers:
        settings = ", ".join(f"{name.removeprefix('PEER_').lower()} {value}" for name, value in server.settings.items())
        best.append([server.name, server.version, settings])
    return "\n\n".join("\n".join(f"| {' | '.join(row)} |" for row in table) for table in (rows, compared, best))


def plot(file: Path, results: Sequence[tuple[str, Sequence[Server]]]) -> None:
    """Draw each file's answers a second and p99 at 16 callers."""
    chart.draw_servers(
        file,
        {
            f"{asked}, {_CALLERS} callers": {
                server.name: (server.rates(_CALLERS), server.latency_ms(_CALLERS, 0.99) or 0.0)
                for server in servers
                if _CALLERS in server.rounds
            }
            for asked, servers in results
        },
        _OURS,
    )


def _range(values: Sequence[float], digits: int = 1) -> str:
    """Return the median and the range."""
    if not values:
        return ""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def main() -> None:
    """Print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.json")
    parser.add_argument("--plot", type=chart.png, metavar="FILE.png")
    given = parser.parse_args()
    results = [read(file) for file in given.files]
    print("\n\n".join(tables(asked, servers) for asked, servers in results))
    if given.plot:
        plot(given.plot, results)


if __name__ == "__main__":
    main()
