"""Chooses a graph's sessions by measurement: one batch on all cores, or several concurrent ones on a share each.

On a GPU: one batch, or two in one session, so that one is copied while the other computes.
"""

import logging
import math
from dataclasses import dataclass
from typing import Any, Final

from resonnx_server.repository.known_graphs import Choice
from resonnx_server.repository.reopening import Source
from resonnx_server.repository.version import GPU_LANES
from resonnx_server.repository.warming import Warming
from resonnx_server.runtime.session import CPU, GPU_PROVIDERS, Session
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool, TensorInstanceGroup, TensorSessionPool

_log = logging.getLogger(__name__)

# Compared batch sizes: under light load batches are small, under heavy load large.
_COMPARED_BATCHES: Final = (1, 8)
# Factor by which concurrent batches must be better.
_LEAST_GAIN: Final = 1.03
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


def choose(warming: Warming[Any], session: Session, least_gain: float = _LEAST_GAIN) -> Sessions:
    """Measure which sessions have the highest throughput.

    Args:
        warming: Warms up the graph's sessions.
        session: On the chosen candidate, with all threads.
        least_gain: Factor by which concurrent batches must be better: the product of the throughput ratios.

    Raises:
        ModelRefused: A session's outputs are wrong, even if it would not be chosen.
    """
    version, file = warming.version, warming.file
    content, candidate = warming.files.files[file], session.candidate
    known = version.known.choice(warming.graph, session, version.batch_sizes) if version.progress.is_beside else None
    if known is not None:
        return _chosen_before(content, session, known)
    sessions = {1: session}
    if candidate.provider in GPU_PROVIDERS:
        # Threads do not matter, and a second session would need the weights twice: two concurrent runs of one session.
        if (version.settings.max_instances or GPU_LANES) >= GPU_LANES:
            sessions[GPU_LANES] = session
    else:
        for instances in version.instance_counts():
            sessions[instances] = session.opened_again(content, max(1, version.threads // instances))
    compared = tuple(sorted({min(rows, version.largest_batch) for rows in _COMPARED_BATCHES}))
    rates = {count: _rates(warming.costs(session, compared, count), count) for count, session in sessions.items()}
    gains = {count: math.prod(found) / math.prod(rates[1]) for count, found in rates.items()}
    best = max(gains, key=lambda count: gains[count] / (1.0 if count == 1 else least_gain))
    throughput_session = latency_session = sessions[best]
    # Threads may spin if no other batch runs.
    spins = candidate.provider == CPU and version.threads > 1
    many = session.opened_again(content, version.threads, spinning=True) if spins else session
    if many is not throughput_session:
        many_ns, few_ns = (warming.costs(each, (1,)).cost_ns(1) for each in (many, throughput_session))
        if many_ns * (_WORTH_MORE_THREADS if best > 1 else 1.0) < few_ns:
            latency_session = many
    chosen = {
        "instances": best,
        "rows_per_s": {count: [round(rate) for rate in found] for count, found in rates.items()},
        "threads_alone": latency_session.threads,
        "spinning_alone": latency_session.spinning,
    }
    _log.info("chose instances", extra={"file": file, **chosen})
    choice = Choice(latency_session.threads, latency_session.spinning, throughput_session.threads, best)
    version.known.learn_choice(warming.graph, session, version.batch_sizes, choice)
    return Sessions(latency_session, throughput_session, best)


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
    return SessionPool(
        session.run, table, has_all_cores, open_again=lambda: source.open_again(session, table.sizes).run
    )


def _rates(table: LatencyTable, instances: int) -> list[float]:
    """Return rows per second at each of the table's sizes with `instances` concurrent batches."""
    return [instances * size / table.cost_ns(size) * 1e9 for size in table.sizes]
