"""What was measured since the start, by graph: a version with other weights starts from it, beside live traffic."""

from dataclasses import dataclass
from typing import NamedTuple

from resonnx_server.runtime.session import Candidate, Session
from resonnx_server.scheduling.measurement import Measured

Costs = dict[int, Measured]


class Choice(NamedTuple):
    """The sessions of a graph: their threads, whether those of the first spin, and how many batches run at once."""

    latency_threads: int
    latency_spins: bool
    throughput_threads: int
    max_concurrent_batches: int

    @classmethod
    def of(cls, stored: tuple[str | int, ...]) -> "Choice | None":
        """Return a choice as it is cached; None if it is damaged."""
        if len(stored) != len(cls._fields):
            return None
        try:
            latency_threads, spins, throughput_threads, count = map(int, stored)
        except ValueError:
            return None
        if min(latency_threads, throughput_threads, count) < 1:
            return None
        return cls(latency_threads, bool(spins), throughput_threads, count)

    @property
    def told(self) -> dict[str, object]:
        """For the log."""
        return {
            "instances": self.max_concurrent_batches,
            "threads": self.throughput_threads,
            "threads_alone": self.latency_threads,
            "spinning_alone": self.latency_spins,
        }


@dataclass(frozen=True)
class _Key:
    graph: str
    candidate: Candidate
    threads: int
    spins: bool
    sizes: tuple[int, ...]
    callers: int


class KnownGraphs:
    """Latency tables, choices of sessions, and the fastest candidates. Each graph's are the latest; thread-safe."""

    def __init__(self) -> None:
        self._costs: dict[_Key, Costs] = {}
        self._choices: dict[_Key, Choice] = {}
        self._fastest: dict[tuple[str, ...], tuple[str, ...]] = {}

    def fastest(self, graphs: tuple[str, ...]) -> tuple[str, ...] | None:
        """Return the names of the candidates that were chosen for a model's graphs; None if unknown."""
        return self._fastest.get(graphs)

    def learn_fastest(self, graphs: tuple[str, ...], candidates: tuple[str, ...]) -> None:
        """Keep which candidates were chosen."""
        self._fastest[graphs] = candidates

    def costs(self, graph: str, session: Session, sizes: tuple[int, ...], callers: int) -> Costs | None:
        """Return the costs of these sizes for `callers` concurrent batches on such a session, if they are known."""
        return self._costs.get(_key(graph, session, sizes, callers))

    def learn_costs(self, graph: str, session: Session, costs: Costs, callers: int) -> None:
        """Keep costs that were measured."""
        self._costs[_key(graph, session, tuple(costs), callers)] = costs

    def choice(self, graph: str, session: Session, sizes: tuple[int, ...]) -> Choice | None:
        """Return which sessions were chosen for this candidate, number of threads and sizes, if that is known."""
        return self._choices.get(_key(graph, session, sizes, 0))

    def learn_choice(self, graph: str, session: Session, sizes: tuple[int, ...], choice: Choice) -> None:
        """Keep what was chosen."""
        self._choices[_key(graph, session, sizes, 0)] = choice


def _key(graph: str, session: Session, sizes: tuple[int, ...], callers: int) -> _Key:
    return _Key(graph, session.candidate, session.threads, session.spinning, sizes, callers)
