"""Checks a captioner's sessions at any batch size by the first decoder step after encoding golden pictures."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic

import numpy as np

from resonnx_server.captioning.slots import Slots
from resonnx_server.runtime.graphs import Captioner, D, Step
from resonnx_server.runtime.model_files.golden_examples import Golden, Verdict, judge_words
from resonnx_server.runtime.session import Array


@dataclass(eq=False)
class _Rows:
    rows: list[int] = field(default_factory=list)


class DecoderCheck(Generic[D]):
    """Compares one word instead of whole captions, which would take too long at every size.

    A step reads all states and features of the encoder, so an error in them shows in its word.

    Args:
        graphs: The captioner.
        slots: Returns free slots for states and features like those of an encoder batch.
        golden: Expected captions.
        bound: Largest deviation of log-probabilities, as in judge_captions.
    """

    def __init__(
        self,
        graphs: Captioner[D],
        slots: Callable[[list[D], list[D]], Slots[Any, D]],
        golden: Golden,
        bound: float,
    ) -> None:
        assert golden.tokens is not None
        assert golden.log_probs is not None
        spec = graphs.manifest.captioner
        self._graphs, self._slots, self._bound = graphs, slots, bound
        # Padding for a second word, where captions may have only one.
        end = [(0, 0), (0, 1)]
        self._golden = replace(
            golden, tokens=np.pad(golden.tokens, end, constant_values=-1), log_probs=np.pad(golden.log_probs, end)
        )
        self._tokens, self._position = np.full(len(golden.images), spec.start_id, np.int64), 0
        if not spec.HasField("start_id"):
            # The encoder gives the first word, a step the second one.
            self._tokens, self._position = golden.tokens[:, 0], 1
        self._encoded: tuple[list[D], list[D]] = [], []
        self._pictures = np.zeros(0, np.int64)

    def of_encoding(self, rows: int, encoded: tuple[list[D], list[D], Array | None]) -> Verdict:
        """Check the result of Captioner.encode for `rows` golden pictures, repeated as needed."""
        state, features, first_log_probs = encoded
        pictures = np.arange(rows) % len(self._golden.images)
        if first_log_probs is not None:
            ids = first_log_probs.argmax(axis=1)
            verdict = judge_words(self._golden, pictures, 0, ids, first_log_probs.max(axis=1), self._bound)
            if not verdict.passed:
                return verdict
        self._encoded, self._pictures = (state, features), pictures
        return self._judge(pictures, self._graphs.step(self._tokens[pictures], state, features))

    def of_slots(self, rows: int) -> Verdict:
        """Run and check a step of `rows` slots, filled with the encodings last given to `of_encoding`."""
        sources = np.resize(np.arange(len(self._pictures)), rows)
        pictures = self._pictures[sources]
        slots, owner = self._slots(*self._encoded), _Rows()
        for source, token in zip(sources, self._tokens[pictures], strict=True):
            slots.join(owner, [int(token)], *self._encoded, int(source))
        verdict = self._judge(pictures, self._graphs.step(*slots.inputs(rows)))
        slots.leave(owner)
        return verdict

    def _judge(self, pictures: Array, step: Step[D]) -> Verdict:
        ids, log_probs = step.top_ids[:, 0], step.top_log_probs[:, 0]
        return judge_words(self._golden, pictures, self._position, ids, log_probs, self._bound)
