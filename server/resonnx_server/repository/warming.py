"""Warms the sessions of a graph: runs, judges and times batches of every size that will be served."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from resonnx_server.repository.choose import demand
from resonnx_server.repository.version import Version
from resonnx_server.runtime.model_files.golden_examples import Verdict
from resonnx_server.runtime.model_files.manifest import VersionFiles
from resonnx_server.runtime.session import Array, Session
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.session_pool import Tensors


@dataclass
class VerifiedRun:
    """Runs batches for Version.warm, the first of each size to be judged; that one is not timed.

    With a table that was kept, the CPU provider runs its largest size only (see Version.warm), and is judged at that:
    at the others it was when the table was measured, by the same ONNX Runtime on the same hardware. Other providers
    run at all sizes, and are judged at all, at every start.

    Attributes:
        run: Runs a batch of so many rows.
        judge: Runs one of golden examples, over and over, and says what the answer is like.
        file: The graph's, for the refusal.
        session: Whose answers they are, for the refusal.
    """

    run: Callable[[int], object]
    judge: Callable[[int], Verdict]
    file: str
    session: Session
    _judged: set[int] = field(default_factory=set)

    def __call__(self, rows: int) -> None:
        """Run a batch of `rows`; several threads may at once. Raises ModelRefused if its first answer is wrong."""
        if rows in self._judged:
            self.run(rows)
            return
        on = f"{self.session.candidate} (threads {self.session.threads})"
        demand(self.judge(rows), f"answers of {self.file} on {on} to batches of {rows}")
        self._judged.add(rows)


@dataclass(frozen=True)
class Warming:
    """Warms the sessions of one graph.

    Attributes:
        version: The version that is loaded.
        files: Its content.
        file: The ONNX file.
        feeds: Inputs of a batch of so many rows.
        judge: Says what the outputs of such a batch are like; None where nothing is known of them.
    """

    version: Version
    files: VersionFiles
    file: str
    feeds: Callable[[int], Mapping[str, Array]]
    judge: Callable[[int, Tensors], Verdict] | None = None

    def costs(self, session: Session, sizes: tuple[int, ...], callers: int) -> LatencyTable:
        """Return what batches of `sizes` rows cost with `callers` of them at once. See Version.warm.

        Raises:
            ModelRefused: An answer is wrong. See VerifiedRun.
        """
        judge = self.judge

        def run(rows: int) -> Tensors:
            return session.run(self.feeds(rows))

        runs: Callable[[int], object] = run
        if judge is not None:
            runs = VerifiedRun(run, lambda rows: judge(rows, run(rows)), self.file, session)
        return self.version.warm(self.files, session, self.file, sizes, runs, callers)
