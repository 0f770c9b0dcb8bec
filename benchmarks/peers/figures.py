"""Figures of servers that are compared, round by round, and the files that keep them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from peers.load import Outcome
from reports.machine import machine

# Answers below which no 99.9th percentile is told.
_ENOUGH: Final = 1000
# Of `Server.failures`, for a server that could not be measured at all.
START: Final = "start"


@dataclass(frozen=True)
class Round:
    """One measurement of a server under so many callers.

    Attributes:
        turn: Its run and turn; those of other servers with the same one were measured right before or after.
        per_s: Answers a second.
        processor_ms: Processor time of all its processes for an answer, in ms.
        client_ms: That of the process that asks.
        times_ms: From sending to answer, of every timed answer, in ms.
    """

    turn: str
    per_s: float
    processor_ms: float
    client_ms: float
    times_ms: tuple[float, ...]

    @classmethod
    def of(cls, turn: str, outcome: Outcome, seconds: float, processor_s: float) -> "Round":
        """Make one of a load's answers, its seconds and their processor time. Raises RuntimeError without answers."""
        if not outcome.times_ms:
            raise RuntimeError(f"no answer within {seconds} s")
        times = tuple(round(time, 1) for time in sorted(outcome.times_ms))
        server_ms, client_ms = (
            round(spent_s * 1e3 / outcome.answers, 2) for spent_s in (processor_s, outcome.client_s)
        )
        return cls(turn, round(len(times) / seconds, 2), server_ms, client_ms, times)


@dataclass(frozen=True)
class Server:
    """A server that was measured.

    Attributes:
        name, version: Of its package.
        settings: In which it was fastest.
        facts: memory_mb (the most after a load), ready_s, install_mb.
        rounds: By number of callers.
        failures: What went wrong, by number of callers or START.
    """

    name: str
    version: str
    settings: Mapping[str, str]
    facts: Mapping[str, float]
    rounds: Mapping[int, Sequence[Round]]
    failures: Mapping[str, str]

    def latency_ms(self, callers: int, share: float) -> float | None:
        """Return a quantile of all rounds' answers; None where they are too few for it."""
        times = sorted(time for found in self.rounds.get(callers, ()) for time in found.times_ms)
        if not times or (share > 0.99 and len(times) < _ENOUGH):
            return None
        return times[min(int(share * len(times)), len(times) - 1)]

    def rates(self, callers: int) -> list[float]:
        """Return answers a second of each round."""
        return [found.per_s for found in self.rounds.get(callers, ())]

    def processor_ms(self, callers: int) -> float:
        """Return the median processor time of an answer, in ms."""
        return median(found.processor_ms for found in self.rounds[callers])

    def client_ms(self, callers: int) -> float:
        """Return the median processor time of the client for an answer, in ms."""
        return median(found.client_ms for found in self.rounds[callers])

    def ratios(self, other: "Server", callers: int) -> list[float]:
        """Return its answers a second relative to another server's in the same turn."""
        theirs = {found.turn: found.per_s for found in other.rounds.get(callers, ())}
        mine = self.rounds.get(callers, ())
        return [found.per_s / theirs[found.turn] for found in mine if found.turn in theirs]

    def joined(self, later: "Server") -> "Server":
        """Return it with the rounds of a later run; only those where its settings were others."""
        if self.settings != later.settings:
            return later
        facts = {**self.facts, **later.facts}
        if "memory_mb" in facts:
            facts["memory_mb"] = max(one.facts.get("memory_mb", 0.0) for one in (self, later))
        counts = sorted({*self.rounds, *later.rounds})
        rounds = {count: [*self.rounds.get(count, ()), *later.rounds.get(count, ())] for count in counts}
        failures = {**self.failures, **later.failures}
        return Server(self.name, later.version or self.version, self.settings, facts, rounds, failures)


def read(file: Path) -> tuple[str, list[Server]]:
    """Return the description of the load, and the servers, of a file that `keep` wrote."""
    content = json.loads(file.read_text())
    return content["asked"], [_server(one) for one in content["servers"]]


def keep(file: Path | None, asked: str, rounds: Iterable[Sequence[Server]]) -> list[Server]:
    """Add rounds to those in a file, each as soon as it is there, and return all of its servers."""
    found = {server.name: server for server in read(file)[1]} if file and file.exists() else {}
    for servers in rounds:
        for server in servers:
            found[server.name] = found[server.name].joined(server) if server.name in found else server
        if file:
            # A line for each server: times are many.
            lines = ",\n".join(json.dumps(asdict(server)) for server in found.values())
            heads = f'"asked": {json.dumps(asked)}, "machine": {json.dumps(machine())}'
            file.write_text(f'{{{heads}, "servers": [\n{lines}\n]}}\n')
    return list(found.values())


def _server(content: dict[str, Any]) -> Server:
    rounds = {
        int(callers): [Round(**{**one, "times_ms": tuple(one["times_ms"])}) for one in found]
        for callers, found in content["rounds"].items()
    }
    return Server(**{**content, "rounds": rounds})
