"""Warms the sessions of a graph: runs, judges and times batches of every size that will be served."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from resonnx_server.engine.latency import LatencyTable
from resonnx_server.engine.runner import Tensors
from resonnx_server.repository.choose import demand
from resonnx_server.repository.version import Version
from resonnx_server.runtime.golden import Verdict
from resonnx_server.runtime.manifest import VersionFiles
from resonnx_server.runtime.session import Array, Session

A = TypeVar("A")


@dataclass
class Judged(Generic[A]):
    """Runs batches for Version.warm, and judges the first answer of each size, which is not timed.

    With a table that was kept, the CPU provider runs its largest size only (see Version.warm), and is judged at that:
    at the others it was when the table was measured, by the same ONNX Runtime on the same hardware. Other providers
    run at all sizes, and are judged at all, at every start.

    Attributes:
        run: Runs a batch of so many rows: golden examples, over and over.
        judge: Says what the answer to a batch of so many rows is like.
        file: The graph's, for the refusal.
        session: Whose answers they are, for the refusal.
    """

    run: Callable[[int], A]
    judge: Callable[[int, A], Verdict]
    file: str
    session: Session
    _judged: set[int] = field(default_factory=set)

    def __call__(self, rows: int) -> None:
        """Run a batch of `rows`; several threads may at once. Raises ModelRefused if its first answer is wrong."""
        answer = self.run(rows)
        if rows not in self._judged:
            on = f"{self.session.candidate} (threads {self.session.threads})"
            demand(self.judge(rows, answer), f"answers of {self.file} on {on} to batches of {rows}")
            self._judged.add(rows)


class Warming:
    """Warms the sessions of one graph.

    Args:
        version: The version that is loaded.
        files: Its content.
        file: The ONNX file.
        feeds: Inputs of a batch of so many rows.
        judge: Says what the outputs of such a batch are like; None where nothing is known of them.
    """

    def __init__(
        self,
        version: Version,
        files: VersionFiles,
        file: str,
        feeds: Callable[[int], Mapping[str, Array]],
        judge: Callable[[int, Tensors], Verdict] | None = None,
    ) -> None:
        self.version, self.files, self.file = version, files, file
        self._feeds, self._judge = feeds, judge
        self._runs: dict[Session, Callable[[int], object]] = {}

    def costs(self, session: Session, sizes: tuple[int, ...], callers: int) -> LatencyTable:
        """Return what batches of `sizes` rows cost with `callers` of them at once. See Version.warm.

        Raises:
            ModelRefused: An answer is wrong. See Judged.
        """
        if session not in self._runs:
            run = partial(self._run, session)
            judge = self._judge
            self._runs[session] = run if judge is None else Judged(run, judge, self.file, session)
        return self.version.warm(self.files, session, self.file, sizes, self._runs[session], callers)

    def _run(self, session: Session, rows: int) -> Tensors:
        return session.run(self._feeds(rows))
