"""Warms up a graph's sessions: runs, checks and times batches of every size that will be served."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from resonnx_server.repository.choose import require_agreement
from resonnx_server.repository.version import Version
from resonnx_server.runtime.model_files.golden_examples import Verdict
from resonnx_server.runtime.model_files.manifest import VersionFiles
from resonnx_server.runtime.session import Session
from resonnx_server.scheduling.latency import LatencyTable

R = TypeVar("R")


@dataclass
class VerifiedRun:
    """Runs batches for Version.warm and checks the first, untimed one of each size.

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

    def costs(self, session: Session, sizes: tuple[int, ...], callers: int = 1) -> LatencyTable:
        """Return the latency table for batch sizes with `callers` concurrent batches; see Version.warm.

        Raises:
            ModelRefused: Outputs are wrong.
        """
        judge, run = self.judge, partial(self.run, session)
        runs: Callable[[int], object] = run
        if judge is not None:
            runs = VerifiedRun(run, lambda rows: judge(rows, run(rows)), self.file, session)
        return self.version.warm(self.files, session, self.file, sizes, runs, callers)
