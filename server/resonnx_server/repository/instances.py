"""Chooses by measurement how a model runs on its device: one batch on all cores, or several on a share each."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from resonnx_server.engine.runner import Runner, Runners, Tensors
from resonnx_server.repository.version import Version
from resonnx_server.runtime.manifest import VersionFiles
from resonnx_server.runtime.session import CPU, OPENVINO, Array, Session

_log = logging.getLogger(__name__)

# Batch at which ways of running are compared, and by how much several at once must be better.
_COMPARED_BATCH: Final = 8
_LEAST_GAIN: Final = 1.03
# How much longer one row may take on a share of the cores before all are used for it: threads that wait for each other
# wait for whatever else the machine does, too.
_WORTH_MORE_THREADS: Final = 1.3


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
    sizes = version.batch_sizes

    def warmed(session: Session, callers: int) -> Runner:
        table = version.warm(files, session, file, sizes, partial(_run_rows, session, feeds), callers)
        return Runner(session.run, table)

    alone = warmed(session, 1)
    sessions = {1: session}
    if session.candidate.provider in (CPU, OPENVINO):
        for instances in version.instance_counts():
            threads = max(1, version.threads // instances)
            sessions[instances] = Session(files.files[file], session.candidate, threads)
    compared = min(_COMPARED_BATCH, version.settings.max_batch_size)
    rates = {1: compared / alone.table.cost_ns(compared)}
    for instances, shared in sessions.items():
        if instances > 1:
            run = partial(_run_rows, shared, feeds)
            table = version.warm(files, shared, file, (compared,), run, instances)
            rates[instances] = instances * compared / table.cost_ns(compared) / _LEAST_GAIN
    best = max(rates, key=rates.__getitem__)
    rows_per_s = {count: round(rate * 1e9) for count, rate in rates.items()}
    _log.info("chose instances", extra={"file": file, "instances": best, "rows_per_s": rows_per_s})
    if best == 1:
        return Runners.single(alone)
    few_threads = version.warm(files, sessions[best], file, sizes[:1], partial(_run_rows, sessions[best], feeds), 1)
    if few_threads.cost_ns(1) < _WORTH_MORE_THREADS * alone.table.cost_ns(1):
        alone = warmed(sessions[best], 1)
    return Runners(alone, warmed(sessions[best], best), best)


def _run_rows(session: Session, feeds: Callable[[int], Mapping[str, Array]], rows: int) -> Tensors:
    return session.run(feeds(rows))
