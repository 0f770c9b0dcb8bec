"""One comparison of a new version with the one that serves, from its start to its verdict."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final

from resonnx_server.captioning.request import Captioned
from resonnx_server.comparison.checker import Checker
from resonnx_server.comparison.copies import Copies
from resonnx_server.comparison.evidence import Evidence
from resonnx_server.comparison.kept import Kept
from resonnx_server.comparison.latencies import Latencies
from resonnx_server.comparison.rule import Rule
from resonnx_server.comparison.running import words
from resonnx_server.comparison.shares import Spread, Sticky
from resonnx_server.comparison.verdict import Judgement, Verdict, judge
from resonnx_server.errors import InferenceFailed, ServerError
from resonnx_server.inference.comparing import Compared
from resonnx_server.inference.model import Model
from resonnx_server.inference.tasks import CLASSIFY
from resonnx_server.memory.budget import Budget
from resonnx_server.observe.stats import Timing
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.scheduling.session_pool import Tensors

_log = logging.getLogger(__name__)

# Names of callers that do not change with their address.
_NAMED: Final = ("key:", "cert:")


class Mode(Enum):
    """Who answers callers.

    SHADOW: the serving version; a share of its requests is run on the new one as well.
    CANARY: the new version answers a share of the callers that name no version.
    """

    SHADOW = "shadow"
    CANARY = "canary"


class State(Enum):
    """Where a comparison stands; all but RUNNING are final."""

    RUNNING = "running"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    ENDED = "ended"


@dataclass(frozen=True)
class Plan:
    """What a comparison is to do.

    Attributes:
        mode: Who answers.
        share: Of requests (shadow) or callers (canary): above 0, at most 1.
        rule: Decides; None to leave the decision to the operator.
        keep: Most disagreeing pictures that are kept; None for as many as the settings allow.
    """

    mode: Mode
    share: float
    rule: Rule | None = None
    keep: int | None = None


class Comparison:
    """A comparison under way, or ended. Event loop only.

    Args:
        base: The version that serves calls without a version.
        new: The version to be proven.
        plan: What to do.
        budget: Copies and kept pictures are charged to it.
        decided: Called once, with the verdict of the rule, which is carried out elsewhere.

    Attributes:
        name: The model's name.
        base_version: The version that serves.
        new_version: The version to be proven.
        task: Their task.
        names: Of classes, or words of the vocabulary.
        evidence: What is known.
        judgement: What the rule says of it.
        state: Where it stands.
        reason: Why it has ended.
        report: Path of its report; empty if there is none.
        kept: Pictures with differing answers.
    """

    def __init__(
        self, base: Model, new: Model, plan: Plan, budget: Budget, decided: Callable[[Judgement], None]
    ) -> None:
        self.name, self.base_version, self.new_version, self.task = base.name, base.version, new.version, base.task
        self.plan, self.report = plan, ""
        assert base.manifest is not None
        spec = base.manifest
        self.names = spec.classifier.labels if base.task is CLASSIFY else spec.captioner.vocabulary
        # Until it has ended.
        self._base: Model | None = base
        self._new: Model | None = new
        self.evidence = Evidence()
        self.judgement = Judgement(Verdict.UNDECIDED, "no rule: promote it or roll it back yourself")
        self.state, self.reason = State.RUNNING, ""
        self.kept = Kept(plan.keep or 0, budget, of_new=plan.mode is Mode.SHADOW)
        self.copies = Copies(budget)
        self._decided = decided
        self._spread = Spread(plan.share)
        self._sticky = Sticky(plan.share, base.name)
        is_shadow = plan.mode is Mode.SHADOW
        evidence = self.evidence
        self._of_new = _Part(self, None if is_shadow else evidence.served, copies=not is_shadow, is_new=True)
        self._of_base = _Part(self, None if is_shadow else evidence.served_by_base, copies=is_shadow)
        checker = Checker(base, new, self.copies, evidence, self.kept.add, self.judge, checks_new=is_shadow)
        self._work = asyncio.create_task(checker.work())
        self._work.add_done_callback(self._worked)
        self.judge()

    def begin(self, model: Model, version: int | str, caller: str, identifier: str) -> tuple[Model, Compared | None]:
        """Return who answers a request that the registry gives to `model`; see Comparing.begin."""
        if model is not self._base or self._new is None:
            return model, None
        if self.plan.mode is Mode.SHADOW:
            return model, self._of_base if self._spread.chooses() else None
        if version:
            return model, None
        # The same caller is answered by the same version: by its key, else by the request's id, else by its address.
        key = caller if caller.startswith(_NAMED) or not identifier else f"id:{identifier}"
        return (self._new, self._of_new) if self._sticky.chooses(key) else (model, self._of_base)

    def judge(self) -> None:
        """Judge by the rule; a verdict is told once."""
        if self.plan.rule is None or self.judgement.verdict is not Verdict.UNDECIDED:
            return
        self.judgement = judge(self.plan.rule, self.evidence)
        if self.judgement.verdict is not Verdict.UNDECIDED and self.state is State.RUNNING:
            self._decided(self.judgement)

    async def end(self, state: State, reason: str) -> None:
        """End it: no copies are made or run any more."""
        self.state, self.reason = state, reason
        self._work.cancel()
        # However it ends.
        await asyncio.wait({self._work})
        self.copies.clear()
        if state is not State.ROLLED_BACK:
            # Only the report of a rollback shows them.
            self.kept.clear()
        # Their memory is given back.
        self._base = self._new = None

    @property
    def models(self) -> list[Model]:
        """Both versions; none once it has ended."""
        return [model for model in (self._base, self._new) if model is not None]

    def _worked(self, work: "asyncio.Task[None]") -> None:
        if not work.cancelled() and (error := work.exception()) is not None and self.state is State.RUNNING:
            why = error.message if isinstance(error, ServerError) else type(error).__name__
            _log.error("a comparison stopped", extra={"model": self.name, "error": why}, exc_info=error)
            self.judgement = Judgement(Verdict.ROLL_BACK, f"the comparison stopped: {why}")
            self._decided(self.judgement)


class _Part:
    """The part of the requests that one version answers, of one comparison.

    Args:
        comparison: The comparison.
        latencies: Counts their latencies; None if these are not compared.
        copies: They are copied.
        is_new: The new version answers them.
    """

    def __init__(
        self, comparison: Comparison, latencies: Latencies | None, *, copies: bool, is_new: bool = False
    ) -> None:
        self._comparison, self._latencies = comparison, latencies
        self._copies, self._is_new = copies, is_new

    def classified(self, pixels: Pixels, outputs: Tensors, timing: Timing) -> None:
        """See Compared."""
        if self._takes:
            rows = outputs["probabilities"]
            self._comparison.copies.offer(pixels, [row.copy() for row in rows], timing.batch_rows)

    def captioned(self, pixels: Pixels, options: DecodeOptions, found: list[Captioned]) -> None:
        """See Compared. Captions that are drawn by chance are not compared."""
        if self._takes and not options.temperature:
            self._comparison.copies.offer(pixels, [words(each) for each in found], 1, options)

    def ended(self, error: BaseException | None, total_ns: int) -> None:
        """See Compared."""
        if error is None and self._latencies is not None:
            self._latencies.add(total_ns)
        elif self._is_new and isinstance(error, InferenceFailed):
            self._comparison.evidence.errors += 1
            # The request's end must not wait for what follows, nor fail by it.
            asyncio.get_running_loop().call_soon(partial(Comparison.judge, self._comparison))

    @property
    def _takes(self) -> bool:
        return self._copies and self._comparison.state is State.RUNNING
