"""Warms up a graph's sessions: runs, checks and times batches of every size that will be served."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, TypeVar

from resonnx_server.repository.choose import require_agreement
from resonnx_server.repository.choosing.report import RaceReport
from resonnx_server.repository.choosing.turns import Callers, Raced, Run, race
from resonnx_server.repository.latency_cache import CachedTable
from resonnx_server.repository.version import Version
from resonnx_server.runtime.model_files.golden_examples import Verdict
from resonnx_server.runtime.model_files.manifest import VersionFiles
from resonnx_server.runtime.session import CPU, Session
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import Measured, Measurement, far_above, measure

_log = logging.getLogger(__name__)

R = TypeVar("R")


@dataclass
class VerifiedRun:
    """Runs batches for Warming and checks the first, untimed one of each size.

    With a cached latency table, the CPU provider runs and checks only its largest size: the others were checked when
    the table was measured, with the same ONNX Runtime on the same hardware. Other providers run and check all sizes at
    every start.

    Attributes:
        run: Runs a batch of the given rows.
        judge: Runs a batch of that many golden examples and compares its outputs.
        file: Name of the graph's file, for messages.
        session: The session, for messages.
    """

    run: Callable[[int], object]
    judge: Callable[[int], Verdict]
    file: str
    session: Session
    _judged: set[int] = field(default_factory=set)

    def __call__(self, rows: int) -> None:
        """Run a batch of `rows` rows. Thread-safe. Raises ModelRefused if the first outputs are wrong."""
        if rows in self._judged:
            self.run(rows)
            return
        where = f"{self.session.candidate} (threads {self.session.threads})"
        require_agreement(self.judge(rows), f"outputs of {self.file} on {where} for batches of {rows}")
        self._judged.add(rows)


@dataclass(frozen=True)
class Warming(Generic[R]):
    """Warms up the sessions of one graph.

    Attributes:
        version: The version being loaded.
        files: Its files.
        file: Name of the ONNX file.
        run: Runs a batch of the given rows on a session.
        judge: Compares the outputs of a batch of the given rows; None if there is no reference.
    """

    version: Version
    files: VersionFiles
    file: str
    run: Callable[[Session, int], R]
    judge: Callable[[int, R], Verdict] | None = None
    # Sessions, which live longer, and the sizes that ran on them.
    _warm: set[tuple[int, int]] = field(default_factory=set)

    @property
    def graph(self) -> str:
        """Equal for files that differ in their weights only."""
        return self.files.graph_sum_of(self.file)

    @property
    def content(self) -> str:
        """Sum of the file, hex."""
        return self.files.sum_of(self.file)

    def checked(self, session: Session) -> Callable[[int], object]:
        """Return what runs a batch of the given rows on a session; it checks the first one of each size. Thread-safe.

        It raises ModelRefused if outputs are wrong, or the load was cancelled.
        """
        judge, progress = self.judge, self.version.progress

        def run(rows: int) -> R:
            progress.move()
            return self.run(session, rows)

        if judge is None:
            return run
        return VerifiedRun(run, lambda rows: judge(rows, run(rows)), self.file, session)

    def race(self, subject: str, candidates: Sequence[tuple[str, Run, float]]) -> Raced:
        """Let sessions race; `subject` is what for, and each has a name and what is added to its logarithmic score.

        Raises:
            ModelRefused: Outputs are wrong.
        """
        with ExitStack() as stack:
            turns = []
            for _, run, penalty in candidates:
                for size in run.sizes:
                    # Checked, and not timed.
                    run.run(size)
                callers = stack.enter_context(Callers(run.callers))
                turns.append(partial(run.score, callers, penalty))
            raced = race(turns, self.version.effort)
        names = [name for name, *_ in candidates]
        penalties = [penalty for *_, penalty in candidates]
        report = RaceReport(self.file, subject, names, penalties, raced)
        _log.info("compared candidates", extra={"model": self.version.folder.name, **report.told})
        self.version.progress.on_race(report)
        return raced

    def costs(self, session: Session, sizes: tuple[int, ...], callers: int = 1) -> LatencyTable:
        """Return the latency table for `callers` concurrent batches: from the cache, or measured now.

        Beside live traffic, the table of an alike graph that serves already is taken.

        Outliers are measured again at every start: a size that looks too slow is never run, and so never corrected by
        live batches. A table that was measured while other processes held the processors is used, but measured again
        at the next starts (see CachedTable.is_doubtful).

        Raises:
            ModelRefused: Outputs are wrong.
        """
        version = self.version
        known = version.known.costs(self.graph, session, sizes, callers) if version.progress.takes_known else None
        checked = self.checked(session)
        version.progress.reach("measuring")
        content = self.content
        cached = self._cached(session, sizes, callers)
        if (cached is None and known is None) or (cached is not None and cached.is_doubtful):
            version.progress.measure_alone()
            # Another load of the same file may have measured meanwhile.
            cached = self._cached(session, sizes, callers)
        table = cached
        if cached is None and known is not None:
            # Of an alike graph: every size is run and checked, and live batches correct its time.
            for size in sizes:
                checked(size)
            return LatencyTable.of(known)
        if table is None or table.is_doubtful:
            table = self._measured(checked, sizes, callers, cached)
        if far := far_above({size: each.median_ns for size, each in table.costs.items()}):
            version.progress.measure_alone()
            table = replace(table, costs=_least(table.costs, self._measure(checked, sorted(far), callers).costs))
        version.progress.is_doubtful |= table.is_doubtful
        if table != cached:
            version.cache.put(content, session, table, callers)
        version.known.learn_costs(self.graph, session, table.costs, callers)
        if cached is not None and not cached.is_doubtful:
            # The CPU provider compiles nothing for a shape; it only has to grow its arena once.
            for size in sizes[-1:] if session.candidate.provider == CPU else sizes:
                # The same session may serve lone batches and concurrent ones.
                if (id(session), size) not in self._warm:
                    checked(size)
                    self._warm.add((id(session), size))
        return LatencyTable.of(table.costs)

    def _cached(self, session: Session, sizes: tuple[int, ...], callers: int) -> CachedTable | None:
        version = self.version
        return version.cache.get(self.content, session, sizes, callers) if version.effort.asks_cache else None

    def _measure(self, run: Callable[[int], object], sizes: Iterable[int], callers: int) -> Measurement:
        return measure(run, sizes, callers, self.version.effort.of_each_size_ns)

    def _measured(
        self, run: Callable[[int], object], sizes: tuple[int, ...], callers: int, before: CachedTable | None
    ) -> CachedTable:
        """Measure all sizes; a doubtful table `before` is used only if this measurement is disturbed, too."""
        measured = self._measure(run, sizes, callers)
        if not measured.received.is_disturbed:
            return CachedTable(measured.costs)
        extra = {"model": self.version.folder.name, "file": self.file, "share": round(measured.received.lost, 2)}
        _log.info("measured while other processes held the processors", extra=extra)
        if before is None:
            return CachedTable(measured.costs, doubts=1)
        # A disturbance makes runs longer, never shorter.
        return CachedTable(_least(measured.costs, before.costs), before.doubts + 1)


def _least(costs: Mapping[int, Measured], others: Mapping[int, Measured]) -> dict[int, Measured]:
    """Return the smaller of both costs by size; sizes that `others` lacks are taken from `costs`."""
    return {size: min(each, others.get(size, each), key=lambda one: one.median_ns) for size, each in costs.items()}
