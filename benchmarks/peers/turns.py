"""Servers in turns: the search for a peer's best setting, and rounds in which every server is measured once."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median
from typing import Final

from peers.environments import size_mb, version
from peers.http_servers import Peer, Running
from peers.load import Request, measure
from peers.report import Cell, Server

_TRIALS: Final = 2
# Answers a second that every server exceeds: the time for which a crowd of callers is measured follows from it.
LEAST_RATE: Final = 20.0


@dataclass(frozen=True)
class Target:
    """What is measured: a server that runs, its package and settings, and where it is asked.

    Attributes:
        urls: Drawn anew for each request.
    """

    running: Running
    peer: Peer
    settings: Mapping[str, str]
    urls: Sequence[str]


def load(urls: Sequence[str], files: Sequence[str], callers: int, seconds: float, least_rate: float) -> Request:
    """Return a load that lasts longer than every caller's wait at so many answers a second."""
    crowd_s = callers / least_rate
    return Request(list(urls), list(files), callers, max(seconds, crowd_s), max(0.5, crowd_s / 1.5))


def fastest(
    name: str,
    peer: Peer,
    serve: Callable[[Mapping[str, str]], AbstractContextManager[Running]],
    request: Callable[[Running], Request],
) -> Mapping[str, str]:
    """Return the setting in which a peer answers most requests a second: the median of trials in turns.

    Args:
        name: That is told.
        peer: Whose settings are tried.
        serve: Serves in one of them; checks the answers.
        request: The load of a trial.
    """
    rates: dict[int, list[float]] = {number: [] for number in range(len(peer.settings))}
    for _ in range(_TRIALS):
        for number, settings in enumerate(peer.settings):
            with serve(settings) as running:
                asked = request(running)
                rates[number].append(len(measure(asked).times_ms) / asked.seconds)
    for number, found in rates.items():
        print(f"{name} {dict(peer.settings[number])}: {median(found):.1f}/s", file=sys.stderr, flush=True)
    return peer.settings[max(rates, key=lambda number: median(rates[number]))]


def rounds(
    targets: Mapping[str, Target], callers: Sequence[int], number: int, request: Callable[[Target, int], Request]
) -> list[Server]:
    """Measure every target under so many callers in each of `number` rounds; each round begins with another one."""
    cells: dict[str, dict[int, Cell]] = {name: {count: Cell() for count in callers} for name in targets}
    memory_mb = dict.fromkeys(targets, 0.0)
    names = list(targets)
    for turn in range(number):
        first = turn % len(names)
        for count in callers:
            for name in names[first:] + names[:first]:
                target = targets[name]
                asked = request(target, count)
                before = target.running.processor_s
                outcome = measure(asked)
                cells[name][count].add(outcome, asked.seconds, target.running.processor_s - before)
                memory_mb[name] = max(memory_mb[name], target.running.memory_mb)
    return [
        Server(
            name,
            version(target.peer.environment, target.peer.package),
            dict(target.settings),
            {
                "memory_mb": memory_mb[name],
                "ready_s": target.running.ready_s,
                "install_mb": size_mb(target.peer.environment),
            },
            cells[name],
        )
        for name, target in targets.items()
    ]
