"""Greedy captions: the best token of each step, as rows of a shared step or all pictures together without an engine."""

from collections.abc import Sequence as Rows

import numpy as np
from resonnx_proto.v1.manifest_pb2 import CaptionerSpec

from resonnx_server.runtime.decoding.search import Constraints, DecodeOptions
from resonnx_server.runtime.decoding.sequence import Sequence, Token
from resonnx_server.runtime.decoding.step_output import StepOutput, top_suffices
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.pictures.images import Pixels

_SAME_ROW = (0,)


class Greedy:
    """A search (see search.Search) that takes the best allowed token.

    Args:
        spec: The captioner's special tokens.
        options: With beam_width 1.
    """

    def __init__(self, spec: CaptionerSpec, options: DecodeOptions) -> None:
        self.width = 1
        self.tokens = [spec.start_id]
        self.finished = False
        self._sequence = Sequence(spec, options.max_tokens)
        self._constraints = Constraints(spec, options)
        self._attention = options.attention
        self._vocabulary = len(spec.vocabulary)
        self._told = 0

    @property
    def needs_log_probs(self) -> bool:
        """See Search."""
        position = len(self._sequence.tokens)
        if self._constraints.forced(position) is not None:
            return True
        return self._draws_from_all(len(self._constraints.forbidden(position)))

    def advance(self, choices: StepOutput, rows: Rows[int]) -> Rows[int]:
        """See Search."""
        row = rows[0]
        position = len(self._sequence.tokens)
        token = self._constraints.forced(position)
        if token is not None:
            log_prob = choices.of_token(row, token)
        else:
            token, log_prob = self._choose(choices, row, self._constraints.forbidden(position))
        self._sequence.advance(token, log_prob, choices.attention(row) if self._attention else None)
        self.tokens[0] = token
        self.finished = self._sequence.finished
        return _SAME_ROW

    def certain(self) -> list[Token]:
        """See Search."""
        words = self._sequence.shown(self._told)
        self._told = len(self._sequence.tokens)
        return words

    def ranked(self) -> list[tuple[Sequence, float]]:
        """See Search."""
        return [(self._sequence, self._sequence.log_prob())]

    def _draws_from_all(self, forbidden: int) -> bool:
        return not top_suffices(1, forbidden, self._vocabulary)

    def _choose(self, choices: StepOutput, row: int, forbidden: frozenset[int]) -> tuple[int, float]:
        first = choices.first(row)
        return choices.best(row, 1, forbidden)[0] if first[0] in forbidden else first


def decode_all(graphs: CaptionerGraphs, images: Pixels, spec: CaptionerSpec) -> list[Sequence]:
    """Caption uint8 pictures [N,H,W,3] together, each to its end, and return their sequences in order.

    The rule without company, for the exporter's proof and the check at load.
    """
    state, features, first_log_probs = graphs.encode(images)
    sequences = [Sequence(spec, spec.max_tokens) for _ in images]
    rows = np.arange(len(sequences))
    if first_log_probs is not None:
        best = first_log_probs.argmax(axis=1)
        for i, sequence in enumerate(sequences):
            sequence.advance(int(best[i]), float(first_log_probs[i, best[i]]))
    tokens = np.array([s.last_id if s.tokens else spec.start_id for s in sequences], np.int64)
    while True:
        keep = np.array([not sequences[row].finished for row in rows])
        if not keep.any():
            return sequences
        if not keep.all():
            rows, tokens = rows[keep], tokens[keep]
            state, features = [s[keep] for s in state], [f[keep] for f in features]
        step = graphs.step(tokens, state, features)
        state = step.state
        for i, row in enumerate(rows):
            sequences[row].advance(int(step.top_ids[i, 0]), float(step.top_log_probs[i, 0]))
        tokens = step.top_ids[:, 0].astype(np.int64)
