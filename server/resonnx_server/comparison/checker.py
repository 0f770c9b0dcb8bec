"""Compares answers with those of the other version, whenever the device is idle."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from resonnx_server.comparison.copies import Answer, Copies, Copy
from resonnx_server.comparison.differences import Difference, of_probabilities, of_words
from resonnx_server.comparison.evidence import LEAST_PAIRS, Evidence
from resonnx_server.comparison.running import batch_size, idle, run
from resonnx_server.errors import InferenceFailed, Overloaded, ServerError, Unavailable
from resonnx_server.inference.model import Model
from resonnx_server.observe.incidents import report_incident

_log = logging.getLogger(__name__)

# Once enough pairs of compute times are known, one batch in so many gives another.
_PAIR_EVERY: Final = 8
# Pause after a run that was refused because the version's queue is full or closed.
_PAUSE_S: Final = 0.1

# Takes a copy, the answer of the other version, and their difference.
Differs = Callable[[Copy, Answer, Difference], None]


class Checker:
    """Runs copies on the version that did not serve them, and now and then on the other, for the compute times.

    Args:
        base: The version that serves.
        new: The version to be proven.
        checks_new: The copies are of answers of `base` (shadow); else of `new` (canary).
        copies: Where they wait.
        evidence: Counts what is found.
        differs: Is told of answers that differ.
        judged: Is called after each change of the evidence.
    """

    def __init__(
        self,
        base: Model,
        new: Model,
        copies: Copies,
        evidence: Evidence,
        differs: Differs,
        judged: Callable[[], None],
        *,
        checks_new: bool,
    ) -> None:
        self._copies, self._evidence, self._differs, self._judged = copies, evidence, differs, judged
        self._new, self._other = new, base
        self._checked, self._control = (new, base) if checks_new else (base, new)
        self._batches = 0

    async def work(self) -> None:
        """Compare until cancelled."""
        while True:
            await self._copies.some()
            await idle(self._checked.engine.device)
            if (first := self._copies.first()) is None:
                continue
            taken = self._copies.take(batch_size(self._checked, first, len(self._copies)))
            try:
                await self._compare(taken)
            except (Overloaded, Unavailable):
                # A version that is being unloaded: the comparison is about to be ended.
                self._copies.dropped += len(taken)
                await asyncio.sleep(_PAUSE_S)
            finally:
                for copy in taken:
                    copy.charge.release()
                # Their pictures are freed before others are waited for.
                del taken, first
            self._judged()

    async def _compare(self, copies: list[Copy]) -> None:
        self._batches += 1
        in_pair = self._evidence.pairs < LEAST_PAIRS or not self._batches % _PAIR_EVERY
        try:
            # In turns, as the second run finds the pictures in the processor's cache.
            before = await self._time(copies) if in_pair and self._batches % 2 else None
            answers, ns = await run(self._checked, copies)
        except InferenceFailed as error:
            await self._failed(copies, error)
            return
        for copy, answer in zip(copies, answers, strict=True):
            self._count(copy, answer)
        if in_pair:
            other_ns = before if before is not None else await self._time(copies)
            if other_ns is not None:
                new_ns, base_ns = (ns, other_ns) if self._checked is self._new else (other_ns, ns)
                self._evidence.add_pair(new_ns, base_ns)

    async def _time(self, copies: list[Copy]) -> float | None:
        """Return the compute ns of the version that answered them; None if it does not answer them again."""
        await idle(self._control.engine.device)
        try:
            return (await run(self._control, copies))[1]
        except ServerError as error:
            _log.warning("a run for compute times failed", extra={"reason": error.reason, "error": error.message})
            return None

    async def _failed(self, copies: list[Copy], error: InferenceFailed) -> None:
        """Find the copies that a version fails on."""
        if len(copies) > 1:
            for copy in copies:
                await self._compare([copy])
            return
        if self._checked is self._new:
            self._evidence.errors += 1
        else:
            # The serving version has no answer to compare with.
            self._copies.dropped += 1
        report_incident(_log, "a version failed on a copy of a request", InferenceFailed(error.message))

    def _count(self, copy: Copy, answer: Answer) -> None:
        difference = difference_of(copy.served, answer)
        self._evidence.add(difference)
        if not difference.agrees:
            self._differs(copy, answer, difference)


def difference_of(served: Answer, other: Answer) -> Difference:
    """Return the difference of two answers of one task."""
    if isinstance(served, tuple):
        return of_words(served, cast(tuple[int, ...], other))
    return of_probabilities(served, cast(npt.NDArray[np.float32], other))
