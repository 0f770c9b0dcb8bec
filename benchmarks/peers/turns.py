"""Servers in turns: the search for a peer's best setting, and rounds in which every server is measured once."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Final

from peers.environments import size_mb, version
from peers.figures import Round, Server
from peers.http_servers import Peer
from peers.load import Request, measure
from peers.process import Running

_TRIALS: Final = 2
# Answers a second that every server exceeds: the time for which a crowd of callers is measured follows from it.
LEAST_RATE: Final = 30.0


@dataclass(frozen=True)
class Target:
    """A running server that is measured: its process, package, settings and addresses.

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


@dataclass(frozen=True)
class Trial:
    """A peer's setting, and answers a second of each time that it was tried."""

    settings: Mapping[str, str]
    rates: Sequence[float]


def best(trials: Sequence[Trial]) -> Mapping[str, str]:
    """Return the setting that answers most requests a second, by the median."""
    return max(trials, key=lambda trial: median(trial.rates)).settings


def search(
    name: str,
    peer: Peer,
    before: Sequence[Trial],
    serve: Callable[[Mapping[str, str]], AbstractContextManager[Running]],
    request: Callable[[Running], Request],
) -> list[Trial]:
    """Try a peer's settings in turns.

    Args:
        name: That is told.
        peer: Whose settings are tried.
        before: Trials of earlier runs, to which those of this one are added.
        serve: Serves in one of them; checks the answers.
        request: The load of a trial.
    """
    known = {tuple(trial.settings.items()): trial.rates for trial in before}
    rates = [list(known.get(tuple(settings.items()), ())) for settings in peer.settings]
    for _ in range(_TRIALS):
        for settings, found in zip(peer.settings, rates, strict=True):
            with serve(settings) as running:
                asked = request(running)
                found.append(len(measure(asked).times_ms) / asked.seconds)
    for settings, found in zip(peer.settings, rates, strict=True):
        print(f"{name} {dict(settings)}: {median(found):.1f}/s", file=sys.stderr, flush=True)
    return [Trial(settings, found) for settings, found in zip(peer.settings, rates, strict=True)]


class Trials:
    """Trials of all peers, kept in a JSON file.

    Args:
        file: None for trials that are not kept.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        content = json.loads(file.read_text()) if file and file.exists() else {}
        self._found = {name: [Trial(**trial) for trial in trials] for name, trials in content.items()}

    def of(self, name: str) -> list[Trial]:
        """Return a peer's trials so far."""
        return self._found.get(name, [])

    def keep(self, name: str, trials: list[Trial]) -> None:
        """Keep a peer's trials: at once, as a search is long."""
        self._found[name] = trials
        if self._file:
            content = {name: [asdict(trial) for trial in found] for name, found in self._found.items()}
            self._file.write_text(json.dumps(content, indent=1) + "\n")


def rounds(
    targets: Mapping[str, Target], callers: Sequence[int], number: int, request: Callable[[Target, int], Request]
) -> Iterator[list[Server]]:
    """Measure every target under so many callers in each of `number` rounds; each round begins with another one.

    A server whose requests fail has no figures for that many callers in that round.
    """
    run = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
    names = list(targets)
    for turn in range(number):
        first = turn % len(names)
        found: dict[str, dict[int, list[Round]]] = {name: {} for name in targets}
        memory_mb = dict.fromkeys(targets, 0.0)
        for count in callers:
            for name in names[first:] + names[:first]:
                running, asked = targets[name].running, request(targets[name], count)
                before = running.processor_s
                try:
                    outcome = measure(asked)
                except RuntimeError as error:
                    print(f"{name}: {error}", file=sys.stderr, flush=True)
                    continue
                spent_s = running.processor_s - before
                found[name][count] = [Round.of(f"{run} {turn}", outcome, asked.seconds, spent_s)]
                memory_mb[name] = max(memory_mb[name], running.memory_mb)
        yield [_server(name, target, memory_mb[name], found[name]) for name, target in targets.items()]


def _server(name: str, target: Target, memory_mb: float, found: Mapping[int, Sequence[Round]]) -> Server:
    peer = target.peer
    facts = {
        "memory_mb": memory_mb,
        "ready_s": target.running.ready_s,
        "install_mb": size_mb(peer.environment),
    }
    return Server(name, version(peer.environment, peer.package), dict(target.settings), facts, found)
