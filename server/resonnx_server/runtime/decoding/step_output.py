"""The output of one decoder step as searches read it: the top tokens, or all of them where a row needs more."""

from collections.abc import Sequence, Set
from typing import Any

import numpy as np
import numpy.typing as npt

from resonnx_server.runtime.graphs import Step
from resonnx_server.runtime.model_files.manifest import DECODER_TOP_K
from resonnx_server.runtime.session import Array


def top_suffices(count: int, forbidden: int, vocabulary: int) -> bool:
    """Whether the best `count` tokens besides `forbidden` others are surely among a step's top tokens."""
    return count + forbidden <= DECODER_TOP_K or vocabulary <= DECODER_TOP_K


class StepOutput:
    """The candidate tokens of each row.

    Args:
        top_ids: int64 [R,k], best first.
        top_log_probs: float32 [R,k].
        log_probs: float32 [R,V], if a row needs it.
        attention: float32 [R,P], likewise.

    Attributes:
        best_ids: The best token of each row. A list: single elements of an array are slow to read.
        best_log_probs: Its log-probability.
    """

    def __init__(
        self, top_ids: Array, top_log_probs: Array, log_probs: Array | None = None, attention: Array | None = None
    ) -> None:
        self._top_ids, self._top_log_probs = top_ids, top_log_probs
        self._log_probs, self._attention = log_probs, attention
        self._are_sound: list[bool] = _are_sound(top_log_probs).tolist()
        self.best_ids: list[int] = top_ids[:, 0].tolist()
        self.best_log_probs: list[float] = top_log_probs[:, 0].tolist()

    @classmethod
    def of_step(cls, step: Step[Any]) -> "StepOutput":
        """Return a decoder step's output."""
        return cls(step.top_ids, step.top_log_probs, step.log_probs, step.attention)

    @classmethod
    def of_log_probs(cls, log_probs: Array) -> "StepOutput":
        """Rank log-probabilities float32 [R,V] as the decoder does: of equal ones, the lower id first."""
        ids = np.stack([_best_ids(row, DECODER_TOP_K) for row in log_probs])
        return cls(ids, np.take_along_axis(log_probs, ids, axis=1), log_probs)

    def are_sound(self, rows: Sequence[int], *, whole: bool) -> bool:
        """Whether rows hold log-probabilities: no NaN, no +inf, and not only -inf.

        Args:
            rows: Rows of one search.
            whole: Check all tokens, not only the top ones. True only if the search reads all: otherwise its result
                would depend on whether another row of the step needs them.
        """
        if not all(self._are_sound[row] for row in rows):
            return False
        return not whole or self._log_probs is None or bool(_are_sound(self._log_probs[list(rows)]).all())

    def best(self, row: int, count: int, forbidden: Set[int]) -> list[tuple[int, float]]:
        """Return a row's best `count` tokens that are not forbidden (fewer if there are no more), best first."""
        ids, log_probs = self._top_ids[row], self._top_log_probs[row]
        if self._log_probs is not None and not top_suffices(count, len(forbidden), self._log_probs.shape[1]):
            whole = self._log_probs[row]
            ids = _best_ids(whole, count + len(forbidden))
            log_probs = whole[ids]
        pairs = zip(ids.tolist(), log_probs.tolist(), strict=True)
        return [pair for pair in pairs if pair[0] not in forbidden][:count]

    def of_token(self, row: int, token: int) -> float:
        """Return one token's log-probability; needs all of them."""
        assert self._log_probs is not None
        return float(self._log_probs[row, token])

    def whole(self, row: int) -> Array:
        """Return all log-probabilities float32 [V] of a row, as a view; needs them."""
        assert self._log_probs is not None
        row_log_probs: Array = self._log_probs[row]
        return row_log_probs

    def attention(self, row: int) -> Array | None:
        """Return a copy of a row's attention float32 [P], if the step gave it."""
        return None if self._attention is None else self._attention[row].copy()


def _are_sound(log_probs: Array) -> npt.NDArray[np.bool_]:
    """Judge log-probabilities [..., n] by their maximum, which is NaN if any is."""
    return np.asarray(np.isfinite(log_probs.max(axis=-1)))


def _best_ids(log_probs: Array, count: int) -> Array:
    """Return the ids of a row's best `count` log-probabilities (fewer if there are no more), best first.

    Of equal ones the lower id comes first. To sort a whole vocabulary takes longer than a row's share of a step.
    """
    if count < len(log_probs):
        least = np.partition(log_probs, -count)[-count]
        ids = np.flatnonzero(log_probs >= least)
        # NaN sorts as the largest value above, but no comparison finds it.
        if len(ids) >= count:
            return ids[np.argsort(-log_probs[ids], kind="stable")[:count]]
    return np.argsort(-log_probs, kind="stable")[:count]
