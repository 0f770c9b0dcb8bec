"""Chooses by measurement how a model runs on its device: one batch on all cores, or several on a share each.

On a GPU: one batch, or two in one session, of which one can be copied while the other computes.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from resonnx_server.engine.latency import LatencyTable
from resonnx_server.engine.runner import Runner, Runners, Tensors
from resonnx_server.repository.version import GPU_LANES, Version
from resonnx_server.runtime.manifest import VersionFiles
from resonnx_server.runtime.session import CPU, GPU_PROVIDERS, Array, Session

_log = logging.getLogger(__name__)

# Batch at which ways of running are compared, and by how much several at once must be better.
_COMPARED_BATCH: Final = 8
_LEAST_GAIN: Final = 1.03
# How much longer one row must take on a share of the cores for all to be used: threads that wait for each other wait
# for whatever else the machine does, too.
_WORTH_MORE_THREADS: Final = 1.15


def settle(
    version: Version, files: VersionFiles, file: str, session: Session, feeds: Callable[[int], Mapping[str, Array]]
) -> Runners:
    """Measure, warm every batch size, and return the runners that give most answers a second.

    Args:
        version: The version that is loaded.
        files: Its content.
        file: The ONNX file.
        session: On the chosen candidate, with all threads.
        feeds: Inputs of a batch of so many rows.
    """
    content = files.files[file]

    def costs(session: Session, sizes: tuple[int, ...], callers: int) -> LatencyTable:
        return version.warm(files, session, file, sizes, partial(_run_rows, session, feeds), callers)

    def warmed(session: Session, callers: int) -> Runner:
        return Runner(session.run, costs(session, version.batch_sizes, callers))

    compared = min(_COMPARED_BATCH, version.settings.max_batch_size)
    candidate = session.candidate
    sessions = {1: session}
    if candidate.provider in GPU_PROVIDERS:
        # Threads are nothing to it, and a second session would be the weights once more: two runs of the one.
        sessions[GPU_LANES] = session
    else:
        for instances in version.instance_counts():
            sessions[instances] = Session(content, candidate, max(1, version.threads // instances))
    rates = {
        instances: instances * compared / costs(shared, (compared,), instances).cost_ns(compared)
        for instances, shared in sessions.items()
    }
    best = max(rates, key=lambda instances: rates[instances] / (1.0 if instances == 1 else _LEAST_GAIN))
    rows_per_s = {count: round(rate * 1e9) for count, rate in rates.items()}
    if best == 1:
        _log.info("chose instances", extra={"file": file, "instances": best, "rows_per_s": rows_per_s})
        return Runners.single(warmed(session, 1))
    # Nothing else runs on the device beside one batch alone, so its threads may wait for each other by spinning.
    many = Session(content, candidate, version.threads, spinning=True) if candidate.provider == CPU else session
    row_ns = {chosen.threads: costs(chosen, (1,), 1).cost_ns(1) for chosen in (many, sessions[best])}
    alone = many if _WORTH_MORE_THREADS * row_ns[many.threads] < row_ns[sessions[best].threads] else sessions[best]
    _log.info(
        "chose instances",
        extra={"file": file, "instances": best, "rows_per_s": rows_per_s, "threads_alone": alone.threads},
    )
    return Runners(warmed(alone, 1), warmed(sessions[best], best), best)


def _run_rows(session: Session, feeds: Callable[[int], Mapping[str, Array]], rows: int) -> Tensors:
    return session.run(feeds(rows))
