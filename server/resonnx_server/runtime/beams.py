"""The search of one caption: what each decoder step's top tokens add, and when it ends. Greedy so far.

Pure: no session, no clock. The engine keeps one Sequence a caption; `decode_all` is the same rule without company,
for the exporter's proof and the check at load.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Words
from dataclasses import dataclass

import numpy as np
from resonnx_proto.v1.manifest_pb2 import CaptionerSpec

from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.images import Pixels


@dataclass(frozen=True)
class Token:
    """A decoded token and its log-probability."""

    id: int
    log_prob: float


class Sequence:
    """One caption while it is decoded.

    Args:
        spec: The captioner's special tokens.
        max_tokens: Most tokens, the end token included.
    """

    def __init__(self, spec: CaptionerSpec, max_tokens: int) -> None:
        self._end_id = spec.end_id
        self._stripped = frozenset(spec.stripped_ids)
        self._max_tokens = max_tokens
        self.tokens: list[Token] = []
        self.finished = False

    @property
    def last_id(self) -> int:
        """The token that the next step is fed."""
        return self.tokens[-1].id

    def advance(self, top_id: int, top_log_prob: float) -> Token | None:
        """Take a step's best token; return it if it is a word to show."""
        token = Token(top_id, top_log_prob)
        self.tokens.append(token)
        self.finished = top_id == self._end_id or len(self.tokens) >= self._max_tokens
        return token if self._is_shown(token) else None

    def shown(self) -> list[Token]:
        """The caption's words: without the end token and what the manifest strips."""
        return [token for token in self.tokens if self._is_shown(token)]

    def log_prob(self) -> float:
        """Sum over all tokens, the end token included."""
        return float(sum(token.log_prob for token in self.tokens))

    def _is_shown(self, token: Token) -> bool:
        return token.id != self._end_id and token.id not in self._stripped


def text(tokens: Iterable[Token], vocabulary: Words[str]) -> str:
    """Join shown tokens to a caption."""
    return " ".join(vocabulary[token.id] for token in tokens)


def decode_all(graphs: CaptionerGraphs, images: Pixels, spec: CaptionerSpec) -> list[Sequence]:
    """Caption uint8 pictures [N,H,W,3] together, each to its end, and return their sequences in order."""
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
