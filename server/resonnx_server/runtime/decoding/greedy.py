"""Greedy captions: the best token of each step."""

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
    """A search (search.Search) that takes the best allowed token.

    Args:
        spec: Gives the special tokens.
        options: With beam_width 1.
    """

    def __init__(self, spec: CaptionerSpec, options: DecodeOptions) -> None:
        self.width = 1
        self.tokens = [spec.start_id]
        self.finished = False
        self._spec, self._options = spec, options
        self._vocabulary = len(spec.vocabulary)
        self._end_id = spec.end_id
        self._hidden = {spec.end_id, *spec.stripped_ids}
        self._decoded: list[Token] = []
        self._constraints = Constraints(spec, options)
        self._emitted = 0
        self._constrain(0)

    def advance(self, output: StepOutput, rows: Rows[int]) -> Rows[int]:
        row, token = rows[0], self._forced
        if token is not None:
            log_prob = output.of_token(row, token)
        else:
            token, log_prob = self._choose(output, row)
        self._decoded.append(Token(token, log_prob, output.attention(row) if self._options.attention else None))
        self.tokens[0] = token
        position = len(self._decoded)
        self.finished = token == self._end_id or position >= self._options.max_tokens
        if position in self._constraints.changes:
            self._constrain(position)
        return _SAME_ROW

    def stable_words(self) -> list[Token]:
        words = [token for token in self._decoded[self._emitted :] if token.id not in self._hidden]
        self._emitted = len(self._decoded)
        return words

    def ranked(self) -> list[tuple[Sequence, float]]:
        sequence = Sequence(self._spec, self._options.max_tokens, self._decoded)
        return [(sequence, sequence.log_prob())]

    def _constrain(self, position: int) -> None:
        self._forced, self._forbidden = self._constraints.at(position)
        self.needs_log_probs = self._forced is not None or self._reads_all()

    def _reads_all(self) -> bool:
        """Whether a choice needs more than a step's top tokens."""
        return not top_suffices(1, len(self._forbidden), self._vocabulary)

    def _choose(self, output: StepOutput, row: int) -> tuple[int, float]:
        token = output.best_ids[row]
        if token in self._forbidden:
            return output.best(row, 1, self._forbidden)[0]
        return token, output.best_log_probs[row]


def decode_all(graphs: CaptionerGraphs, images: Pixels, spec: CaptionerSpec) -> list[Sequence]:
    """Caption uint8 pictures [N,H,W,3] in one batch and return their sequences in order.

    The greedy rule without the engine, for the exporter's proof and the check at load.
    """
    state, features, first_log_probs = graphs.encode(images)
    sequences = [Sequence(spec, spec.max_tokens) for _ in images]
    rows = np.arange(len(sequences))
    if first_log_probs is not None:
        best = first_log_probs.argmax(axis=1)
        for i, sequence in enumerate(sequences):
            sequence.advance(int(best[i]), float(first_log_probs[i, best[i]]))
    tokens = np.array([s.tokens[-1].id if s.tokens else spec.start_id for s in sequences], np.int64)
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
