"""Chooses a graph's sessions by measurement: one batch on all cores, or several concurrent ones on a share each.

On a GPU: one batch, or two in one session, so that one is copied while the other computes. The session for a batch
that runs alone is chosen by its latency.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from resonnx_server.repository.choosing.turns import Raced, Run
from resonnx_server.repository.known_graphs import Choice
from resonnx_server.repository.latency_cache import CachedChoice
from resonnx_server.repository.reopening import Source
from resonnx_server.repository.version import Version
from resonnx_server.repository.warming import Warming
from resonnx_server.runtime.session import CPU, GPU_PROVIDERS, Session
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool, TensorInstanceGroup, TensorSessionPool

_log = logging.getLogger(__name__)

# Compared batch sizes: under light load batches are small, under heavy load large.
_COMPARED_BATCHES: Final = (1, 8)
# Factor by which all cores must be faster for one row: threads that wait for each other suffer more from other load.
_WORTH_MORE_THREADS: Final = 1.15


@dataclass(frozen=True)
class Sessions:
    """The sessions of one graph.

    Attributes:
        latency_session: For a batch that runs alone.
        throughput_session: For `max_concurrent_batches` concurrent batches.
    """

    latency_session: Session
    throughput_session: Session
    max_concurrent_batches: int


def choose(warming: Warming[Any], session: Session, least_gain: float = 1.0) -> Sessions:
    """Measure which sessions have the highest throughput, and which one the shortest latency.

    Of about equal ones, the one with fewer concurrent batches or threads is taken. The choice comes from the cache if
    it is there, beyond doubt.

    Args:
        warming: Warms up the graph's sessions.
        session: On the chosen candidate, with all threads.
        least_gain: Factor by which concurrent batches must be better: the product of the throughput ratios.

    Raises:
        ModelRefused: A session's outputs are wrong, even if it would not be chosen.
    """
    version, content = warming.version, warming.files.files[warming.file]
    # On a GPU, threads do not matter, and a second session would need the weights twice: two runs of one session.
    is_gpu = session.candidate.provider in GPU_PROVIDERS
    counts = [count for count in version.instance_counts(is_gpu=is_gpu) if count > 1]
    # Threads may spin if no other batch runs.
    spins = session.candidate.provider == CPU and version.threads > 1
    if not counts and not spins:
        return Sessions(session, session, 1)
    threads_of = {1: session.threads}
    threads_of |= {count: session.threads if is_gpu else max(1, version.threads // count) for count in counts}
    between = f"{warming.content} {session.candidate} {session.threads} {version.batch_sizes} {counts} {least_gain}"
    if session.view is not None:
        between += f" {session.view.inputs}"
    known = version.known.choice(warming.graph, session, version.batch_sizes) if version.progress.takes_known else None
    if known is None:
        known, cached = _cached(version, between, threads_of)
    if known is None:
        version.progress.measure_alone()
        # Another load of the same file may have chosen meanwhile.
        known, cached = _cached(version, between, threads_of)
    if known is not None:
        return _chosen_before(content, session, known)
    sessions = {1: session}
    for count in counts:
        sessions[count] = session if is_gpu else session.opened_again(content, threads_of[count])
    most, first = _most_throughput(warming, sessions, least_gain)
    throughput_session = sessions[most]
    many = session.opened_again(content, version.threads, spinning=True) if spins else throughput_session
    latency_session, second = _least_latency(warming, throughput_session, many, _WORTH_MORE_THREADS if most > 1 else 1)
    choice = Choice(latency_session.threads, latency_session.spinning, throughput_session.threads, most)
    _log.info("chose instances", extra={"file": warming.file, **choice.told})
    is_doubtful = any(raced.is_doubtful for raced in (first, second) if raced is not None)
    kept = CachedChoice(choice, (cached.doubts if cached else 0) + 1 if is_doubtful else 0)
    version.progress.is_doubtful |= kept.is_doubtful
    version.cache.keep_choice(between, kept)
    version.known.learn_choice(warming.graph, session, version.batch_sizes, choice)
    return Sessions(latency_session, throughput_session, most)


def _most_throughput(
    warming: Warming[Any], sessions: dict[int, Session], least_gain: float
) -> tuple[int, Raced | None]:
    """Return the number of concurrent batches with the highest throughput, given the session for each number."""
    if len(sessions) == 1:
        return 1, None
    compared = tuple(sorted({min(rows, warming.version.largest_batch) for rows in _COMPARED_BATCHES}))
    names = {count: f"{count} x {each.threads} threads" for count, each in sessions.items()}
    runs = {count: Run(warming.checked(each), compared, count) for count, each in sessions.items()}
    penalties = {count: 0.0 if count == 1 else math.log(least_gain) / len(compared) for count in sessions}
    raced = warming.race("throughput", [(names[count], runs[count], penalties[count]) for count in sessions])
    return [*sessions][raced.order[0]], raced


def _least_latency(
    warming: Warming[Any], few: Session, many: Session, worth_more_threads: float
) -> tuple[Session, Raced | None]:
    """Return which session runs a single row faster; `many` threads must be faster by a factor."""
    if many is few:
        return few, None
    named = [(f"{each.threads} threads{', spinning' * each.spinning}", each) for each in (few, many)]
    penalties = 0.0, math.log(worth_more_threads)
    candidates = [
        (name, Run(warming.checked(each), (1,), 1), penalty)
        for (name, each), penalty in zip(named, penalties, strict=True)
    ]
    raced = warming.race("latency", candidates)
    return (few, many)[raced.order[0]], raced


def _cached(version: Version, between: str, threads_of: Mapping[int, int]) -> tuple[Choice | None, CachedChoice | None]:
    """Return the cached choice if it is beyond doubt and valid here, and the cache's entry."""
    cached = version.cache.choice(between) if version.effort.asks_cache else None
    if cached is None or cached.is_doubtful:
        return None, cached
    known = Choice.of(cached.chosen)
    # The file may be another machine's, or anybody's.
    if known is not None and not _may_choose(known, version.threads, threads_of):
        known = None
    return known, cached


def _may_choose(choice: Choice, threads: int, threads_of: Mapping[int, int]) -> bool:
    """Return whether a choice is one that `choose` makes, given the threads for each number of concurrent batches."""
    expected = threads_of.get(choice.max_concurrent_batches)
    return choice.throughput_threads == expected and choice.latency_threads in (expected, threads)


def _chosen_before(content: bytes, session: Session, known: Choice) -> Sessions:
    """Return the sessions that were chosen for an alike graph; no others are opened."""

    def opened(threads: int, *, spinning: bool) -> Session:
        if (threads, spinning) == (session.threads, session.spinning):
            return session
        return session.opened_again(content, threads, spinning=spinning)

    throughput_session = opened(known.throughput_threads, spinning=False)
    latency_session = throughput_session
    if (known.latency_threads, known.latency_spins) != (known.throughput_threads, False):
        latency_session = opened(known.latency_threads, spinning=known.latency_spins)
    return Sessions(latency_session, throughput_session, known.max_concurrent_batches)


def choose_instances(warming: Warming[Any], session: Session, source: Source) -> TensorInstanceGroup:
    """Choose sessions as `choose` does, and warm up every batch size; `source` is the graph's file."""
    chosen = choose(warming, session)

    def warmed(session: Session, callers: int) -> TensorSessionPool:
        table = warming.costs(session, warming.version.batch_sizes, callers)
        share = chosen.throughput_session.threads if chosen.max_concurrent_batches > 1 else 1
        return tensor_pool(session, table, source, has_all_cores=session.threads > share)

    if chosen.latency_session is chosen.throughput_session and chosen.max_concurrent_batches == 1:
        return InstanceGroup.single(warmed(chosen.throughput_session, 1))
    return InstanceGroup(
        warmed(chosen.latency_session, 1),
        warmed(chosen.throughput_session, chosen.max_concurrent_batches),
        chosen.max_concurrent_batches,
    )


def tensor_pool(session: Session, table: LatencyTable, source: Source, *, has_all_cores: bool) -> TensorSessionPool:
    """Return the pool of a session whose file is `source`."""
    # Not the session itself, whose memory is freed when its pool has none.
    opener = session.opener()
    return SessionPool(
        session.run,
        table,
        has_all_cores,
        open_again=lambda: source.open_again(opener, table.sizes).run,
        let_go=lambda: None,
    )
