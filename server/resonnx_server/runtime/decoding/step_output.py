"""What one decoder step offers its rows: the best tokens, or all of them where a row's constraints want more."""

from collections.abc import Set
from typing import Any

import numpy as np
import numpy.typing as npt

from resonnx_server.runtime.graphs import Step
from resonnx_server.runtime.model_files.manifest import DECODER_TOP_K
from resonnx_server.runtime.session import Array


def top_suffices(count: int, forbidden: int, vocabulary: int) -> bool:
    """Say whether the best `count` tokens, `forbidden` others left out, are surely among a step's top tokens."""
    return count + forbidden <= DECODER_TOP_K or vocabulary <= DECODER_TOP_K


class StepOutput:
    """The tokens that may follow each row.

    Args:
        top_ids: int64 [R,k], best first.
        top_log_probs: float32 [R,k].
        log_probs: float32 [R,V], where a row asked for it.
        attention: float32 [R,P], likewise.
    """

    def __init__(
        self, top_ids: Array, top_log_probs: Array, log_probs: Array | None = None, attention: Array | None = None
    ) -> None:
        self._top_ids, self._top_log_probs = top_ids, top_log_probs
        self._log_probs, self._attention = log_probs, attention
        # Lists: most rows are greedy, and reading single elements of an array is slow.
        self._are_sound: list[bool] = _are_sound(top_log_probs).tolist()
        self._best_ids: list[int] = top_ids[:, 0].tolist()
        self._best_log_probs: list[float] = top_log_probs[:, 0].tolist()

    @classmethod
    def of_step(cls, step: Step[Any]) -> "StepOutput":
        """Wrap a decoder step's answer."""
        return cls(step.top_ids, step.top_log_probs, step.log_probs, step.attention)

    @classmethod
    def of_log_probs(cls, log_probs: Array) -> "StepOutput":
        """Rank all log-probabilities float32 [R,V], as the decoder would: of equals, the lower id first."""
        ids = np.stack([_best_ids(row, DECODER_TOP_K) for row in log_probs])
        return cls(ids, np.take_along_axis(log_probs, ids, axis=1), log_probs)

    def is_sound(self, row: int, *, whole: bool) -> bool:
        """Whether what a row may choose from are log-probabilities: no NaN, no +inf, and not all of them -inf.

        Args:
            row: The row.
            whole: It chooses from all tokens, not just the top. To look at more than it asked for would let it fail
                in the company of rows that ask for all of them, but not without.
        """
        if not self._are_sound[row]:
            return False
        return not whole or self._log_probs is None or bool(_are_sound(self._log_probs[row]))

    def first(self, row: int) -> tuple[int, float]:
        """Return the row's best token and its log-probability."""
        return self._best_ids[row], self._best_log_probs[row]

    def best(self, row: int, count: int, forbidden: Set[int]) -> list[tuple[int, float]]:
        """Return the row's best `count` tokens that are not forbidden (fewer where there are no more), best first."""
        ids, log_probs = self._top_ids[row], self._top_log_probs[row]
        if self._log_probs is not None and not top_suffices(count, len(forbidden), self._log_probs.shape[1]):
            whole = self._log_probs[row]
            ids = _best_ids(whole, count + len(forbidden))
            log_probs = whole[ids]
        pairs = zip(ids.tolist(), log_probs.tolist(), strict=True)
        return [pair for pair in pairs if pair[0] not in forbidden][:count]

    def of_token(self, row: int, token: int) -> float:
        """Return one token's log-probability; the row must have asked for all of them."""
        assert self._log_probs is not None
        return float(self._log_probs[row, token])

    def whole(self, row: int) -> Array:
        """Return all log-probabilities float32 [V] (a view); the row must have asked for them."""
        assert self._log_probs is not None
        row_log_probs: Array = self._log_probs[row]
        return row_log_probs

    def attention(self, row: int) -> Array | None:
        """Return a copy of where the row looked, float32 [P], if the step was asked for it."""
        return None if self._attention is None else self._attention[row].copy()


def _are_sound(log_probs: Array) -> npt.NDArray[np.bool_]:
    """Judge log-probabilities [..., n] by their largest: NaN if there is any."""
    return np.asarray(np.isfinite(log_probs.max(axis=-1)))


def _best_ids(log_probs: Array, count: int) -> Array:
    """Return the ids of a row's best `count` log-probabilities (fewer where there are no more), best first.

    Of equals the lower id goes first. Sorting a whole vocabulary takes longer than a row's share of a decoder step.
    """
    if count < len(log_probs):
        least = np.partition(log_probs, -count)[-count]
        ids = np.flatnonzero(log_probs >= least)
        # What is no number counts as largest above, and compares with nothing.
        if len(ids) >= count:
            return ids[np.argsort(-log_probs[ids], kind="stable")[:count]]
    return np.argsort(-log_probs, kind="stable")[:count]
