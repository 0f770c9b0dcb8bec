"""Servers in turns: the search for each peer's best setting, and rounds in which every server is measured."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

import grpc
from peers.environments import size_mb, version
from peers.figures import START, Round, Server
from peers.http_servers import Peer
from peers.load import Hung, Request, measure
from peers.process import Running, pause, resume

# Answers a second that every server exceeds: the time for which a crowd of callers is measured follows from it.
LEAST_RATE: Final = 30.0
# How often each setting is tried.
TRIALS: Final = 3
# Share of the best setting's answers below which one is not tried again.
_HOPELESS: Final = 0.8
# Shorter than a measurement: there are many settings.
TRIED_CALLERS, TRIED_S = 16, 1.5
# What a server that does not work raises where it is installed, started, asked or read.
PEER_ERRORS: Final = (RuntimeError, OSError, ValueError, LookupError, grpc.RpcError, subprocess.SubprocessError)


@dataclass
class Target:
    """A server that is measured.

    Attributes:
        running: Its process; None if it did not start.
        peer, settings: Its package, and the settings that it was started with.
        urls: Drawn anew for each request.
        failures: What went wrong, by number of callers or START.
        hung: Whether it has stopped answering: it is asked no more.
    """

    running: Running | None
    peer: Peer
    settings: Mapping[str, str]
    urls: Sequence[str]
    failures: dict[str, str] = field(default_factory=dict)
    hung: bool = False


def load(urls: Sequence[str], files: Sequence[str], callers: int, seconds: float, least_rate: float) -> Request:
    """Return a load that lasts longer than every caller's wait at so many answers a second."""
    crowd_s = callers / least_rate
    return Request(list(urls), list(files), callers, max(seconds, crowd_s), max(0.5, crowd_s / 3))


@dataclass(frozen=True)
class Trial:
    """A peer's setting, and answers a second of each time that it was tried; 0 where it failed."""

    settings: Mapping[str, str]
    rates: Sequence[float]


def best(trials: Sequence[Trial]) -> Mapping[str, str]:
    """Return the setting that answers most requests a second, by the median. Raises RuntimeError if all failed."""
    tried = [trial for trial in trials if trial.rates and median(trial.rates)]
    if not tried:
        raise RuntimeError("none of its settings worked when it was tried")
    return max(tried, key=lambda trial: median(trial.rates)).settings


class Trials:
    """Trials of all peers on one kind of input, kept in a JSON file that has those on other kinds as well.

    Args:
        file: Made where it is missing.
        what: The kind of input.
    """

    def __init__(self, file: Path, what: str) -> None:
        self._file, self._what = file, what
        self._all: dict[str, dict[str, list[dict[str, Any]]]] = json.loads(file.read_text()) if file.exists() else {}

    def of(self, name: str, peer: Peer) -> list[Trial]:
        """Return a peer's trials: of all its settings, also those that were not tried yet."""
        kept = self._all.get(self._what, {}).get(name, ())
        rates = {tuple(trial["settings"].items()): trial["rates"] for trial in kept}
        return [Trial(settings, rates.get(tuple(settings.items()), [])) for settings in peer.settings]

    def missing(self, peers: Mapping[str, Peer]) -> dict[str, Peer]:
        """Return the peers of which a setting was never tried."""
        return {name: peer for name, peer in peers.items() if not all(trial.rates for trial in self.of(name, peer))}

    def add(self, name: str, peer: Peer, settings: Mapping[str, str], rate: float) -> None:
        """Add one trial to the file: at once, as a search is long."""
        trials = [
            Trial(trial.settings, [*trial.rates, rate] if trial.settings == settings else trial.rates)
            for trial in self.of(name, peer)
        ]
        self._all.setdefault(self._what, {})[name] = [asdict(trial) for trial in trials]
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # A line for each setting.
        peers = {
            what: ",\n".join(
                f"  {json.dumps(name)}: [\n   " + ",\n   ".join(map(json.dumps, found)) + "\n  ]"
                for name, found in named.items()
            )
            for what, named in self._all.items()
        }
        kinds = ",\n".join(f" {json.dumps(what)}: {{\n{text}\n }}" for what, text in peers.items())
        self._file.write_text(f"{{\n{kinds}\n}}\n")


def search(
    trials: Trials,
    peers: Mapping[str, Peer],
    times: int,
    serve: Callable[[Peer, Mapping[str, str]], AbstractContextManager[Running]],
    request: Callable[[Running], Request],
) -> None:
    """Try every setting of every peer until it was tried so many times, in turns: all once, then all again.

    A setting that stays far behind the peer's best is not tried again.

    Args:
        trials: Those so far, to which others are added.
        peers: By name.
        times: Trials of each setting.
        serve: Serves by a peer in a setting; checks the answers.
        request: The load of a trial.
    """
    for turn in range(times):
        for name, peer in peers.items():
            found = trials.of(name, peer)
            hopeless = _HOPELESS * max(median(trial.rates or [0.0]) for trial in found)
            for trial in found:
                if len(trial.rates) > turn or (trial.rates and median(trial.rates) < hopeless):
                    continue
                rate = 0.0
                try:
                    with serve(peer, trial.settings) as running:
                        asked = request(running)
                        rate = round(len(measure(asked).times_ms) / asked.seconds, 1)
                except PEER_ERRORS as error:
                    print(f"{name}: {told(error)}", file=sys.stderr)
                print(f"{name} {dict(trial.settings)}: {rate:.1f}/s", file=sys.stderr, flush=True)
                trials.add(name, peer, trial.settings, rate)


def rounds(
    targets: Mapping[str, Target], callers: Sequence[int], number: int, request: Callable[[Target, int], Request]
) -> Iterator[list[Server]]:
    """Measure every target under so many callers in each of `number` rounds.

    A number of callers that is given several times is measured as often within a round. Each turn begins with another
    target. Servers are stopped while others are measured: some work in the background, and not little. What fails is
    noted in the target and ends nothing.
    """
    run = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
    names = [name for name, target in targets.items() if target.running]
    for target in targets.values():
        if target.running:
            pause(target.running.pid)
    for number_of_round in range(number):
        found: dict[str, dict[int, list[Round]]] = {name: {} for name in targets}
        memory_mb = dict.fromkeys(targets, 0.0)
        for place, count in enumerate(callers):
            turn = number_of_round * len(callers) + place
            first = turn % len(names) if names else 0
            for name in names[first:] + names[:first]:
                target = targets[name]
                if target.hung or not target.running:
                    continue
                resume(target.running.pid)
                try:
                    one = _measured(f"{run} {turn}", target.running, request(target, count))
                    memory_mb[name] = max(memory_mb[name], target.running.memory_mb)
                    found[name].setdefault(count, []).append(one)
                except PEER_ERRORS as error:
                    target.failures[str(count)] = told(error)
                    target.hung = isinstance(error, Hung)
                    print(f"{name}, {count} callers: {told(error)}", file=sys.stderr, flush=True)
                pause(target.running.pid)
        yield [_server(name, target, memory_mb[name], found[name]) for name, target in targets.items()]


def _measured(turn: str, running: Running, asked: Request) -> Round:
    before = running.processor_s
    outcome = measure(asked)
    return Round.of(turn, outcome, asked.seconds, running.processor_s - before)


def _server(name: str, target: Target, memory_mb: float, found: Mapping[int, Sequence[Round]]) -> Server:
    peer, facts, number = target.peer, {}, ""
    if START not in target.failures and target.running:
        number = version(peer.environment, peer.package)
        facts = {"memory_mb": memory_mb, "ready_s": target.running.ready_s, "install_mb": size_mb(peer.environment)}
    return Server(name, number, dict(target.settings), facts, found, dict(target.failures))


def told(error: BaseException) -> str:
    """Return what went wrong in one line: of a server that did not start, its first and last words."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines) == 1 else f"{lines[0][:200]} … {lines[-1][:200]}"


def failed(peer: Peer, settings: Mapping[str, str], error: BaseException) -> Target:
    """Return the target of a server that could not be started."""
    return Target(None, peer, settings, [], {START: told(error)})
