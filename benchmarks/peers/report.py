"""Shows figures of servers that were compared as tables in Markdown, and draws them.

    PYTHONPATH=benchmarks python -m peers.report FILE.json [FILE.json …] [--details] [--plot FILE.png]

FILE.json is what peers.pictures or peers.captions wrote. The table has answers a second as the median of the turns, at
16 callers with the range, and how many times as many resonnx answered in the same turns. Latencies, processor time and
memory are those at 16 callers; `--details` adds the latencies at the other numbers, the settings and the client's time.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from peers.figures import START, Server, read
from reports import chart

_OURS: Final = "resonnx"
# Of which ranges, latencies, processor time and ratios are told; where it was not measured, of the least number.
_CALLERS: Final = 16
_SHARES: Final = (0.5, 0.99, 0.999)
_FACTS: Final = ("memory_mb", "ready_s", "install_mb")


def tables(asked: str, servers: Sequence[Server], *, details: bool = True) -> str:
    """Return the table of a file's figures, what went wrong, and with `details` two further tables."""
    counts = sorted({count for server in servers for count in server.rounds})
    main = _main(servers)
    ordered = sorted(servers, key=lambda server: -median(server.rates(main) or [0]))
    ours = [server for server in ordered if server.name.startswith(_OURS) and "REST" not in server.name]
    heads = [f"{asked}; answers/s of", *("1 caller" if count == 1 else f"{count} callers" for count in counts)]
    heads += [f"{server.name} has" for server in ours]
    heads += [f"p50 ms, {main}", "p99", "p99.9", "processor ms", "memory MB", "ready s", "installed MB"]
    rows = [heads, ["---"] * len(heads)]
    for server in ordered:
        cells = [_rate(server, count, ranged=count == main) for count in counts]
        ratios = ["" if server is one else _range(one.ratios(server, main), 2, "x") for one in ours]
        times = [_number(server.latency_ms(main, share)) for share in _SHARES]
        cost = f"{server.processor_ms(main):.1f}" if main in server.rounds else ""
        rows.append([server.name, *cells, *ratios, *times, cost, *(_number(server.facts.get(name)) for name in _FACTS)])
    told = [
        f"{server.name}, {'not measured' if when == START else f'{when} callers'}: {error}"
        for server in ordered
        for when, error in server.failures.items()
    ]
    return "\n\n".join([_table(rows), *told, *(_details(ordered, counts) if details else ())])


def _main(servers: Sequence[Server]) -> int:
    counts = {count for server in servers for count in server.rounds}
    return _CALLERS if _CALLERS in counts or not counts else min(counts)


def _details(servers: Sequence[Server], counts: Sequence[int]) -> list[str]:
    main = _main(servers)
    heads = [f"{figure}, {count}" for count in counts for figure in ("p50 ms", "p99", "p99.9")]
    rows = [["server", *heads, "client's ms"], ["---"] * (len(heads) + 2)]
    for server in servers:
        times = [_number(server.latency_ms(count, share)) for count in counts for share in _SHARES]
        client = f"{server.client_ms(main):.1f}" if main in server.rounds else ""
        rows.append([server.name, *times, client])
    best = [["server", "version", "settings"], ["---"] * 3]
    for server in servers:
        settings = ", ".join(f"{name.removeprefix('PEER_').lower()} {value}" for name, value in server.settings.items())
        best.append([server.name, server.version, settings or "its own choice"])
    return [_table(rows), _table(best)]


def plot(file: Path, results: Sequence[tuple[str, Sequence[Server]]]) -> None:
    """Draw each file's answers a second and p99 at 16 callers, and answers a second at the other numbers."""
    panels = {}
    for asked, servers in results:
        main = _main(servers)
        panels[f"{asked}, {main} callers"] = {
            server.name: chart.Answers(
                server.rates(main),
                server.latency_ms(main, 0.99) or 0.0,
                {count: median(server.rates(count)) for count in server.rounds if count != main},
            )
            for server in servers
            if main in server.rounds
        }
    chart.draw_servers(file, {title: servers for title, servers in panels.items() if servers}, _OURS)


def _rate(server: Server, callers: int, *, ranged: bool) -> str:
    rates = server.rates(callers)
    if not rates:
        return "failed" if {START, str(callers)} & set(server.failures) else ""
    return _range(rates) if ranged else f"{median(rates):.1f}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _range(values: Sequence[float], digits: int = 1, unit: str = "") -> str:
    """Return the median and the range."""
    if not values:
        return ""
    return f"{median(values):.{digits}f}{unit} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def main() -> None:
    """Print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.json")
    parser.add_argument("--details", action="store_true")
    parser.add_argument("--plot", type=chart.png, metavar="FILE.png")
    given = parser.parse_args()
    results = [read(file) for file in given.files]
    print("\n\n".join(tables(asked, servers, details=given.details) for asked, servers in results))
    if given.plot:
        plot(given.plot, results)


if __name__ == "__main__":
    main()
