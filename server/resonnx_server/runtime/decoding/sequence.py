"""One caption: its tokens with their log-probabilities, and which of them are words. Pure."""

from collections.abc import Iterable
from collections.abc import Sequence as Words
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from resonnx_proto.v1.manifest_pb2 import CaptionerSpec

from resonnx_server.runtime.session import Array


@dataclass(frozen=True, slots=True)
class Token:
    """A decoded token, its log-probability, and the decoder's attention float32 [P], if requested."""

    id: int
    log_prob: float
    attention: Array | None = None


class Sequence:
    """A caption, while it is decoded and when it is finished.

    Args:
        spec: Gives the special tokens.
        max_tokens: Most tokens, the end token included.
        tokens: Those of a finished caption; none to begin one.
    """

    def __init__(self, spec: CaptionerSpec, max_tokens: int, tokens: Words[Token] = ()) -> None:
        self._end_id = spec.end_id
        self._stripped = frozenset(spec.stripped_ids)
        self._max_tokens = max_tokens
        self.tokens = list(tokens)
        self.finished = bool(tokens)

    def advance(self, token_id: int, log_prob: float, attention: Array | None = None) -> None:
        """Append a step's token."""
        self.tokens.append(Token(token_id, log_prob, attention))
        self.finished = token_id == self._end_id or len(self.tokens) >= self._max_tokens

    def shown(self, start: int = 0) -> list[Token]:
        """Return the words from token `start` on: all tokens but the end token and those that the manifest strips."""
        return [token for token in self.tokens[start:] if token.id != self._end_id and token.id not in self._stripped]

    def log_prob(self) -> float:
        """Return the sum over all tokens, the end token included."""
        return float(sum(token.log_prob for token in self.tokens))


def text(tokens: Iterable[Token], vocabulary: Words[str]) -> str:
    """Join words to a caption."""
    return " ".join(vocabulary[token.id] for token in tokens)


def pack_captions(
    sequences: Words[Sequence], spec: CaptionerSpec
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return tokens int64 [G,T] and log-probabilities float32 [G,T] of reference captions, padded with -1 and 0."""
    tokens = np.full((len(sequences), spec.max_tokens), -1, np.int64)
    log_probs = np.zeros(tokens.shape, np.float32)
    for row, sequence in enumerate(sequences):
        length = len(sequence.tokens)
        tokens[row, :length] = [token.id for token in sequence.tokens]
        log_probs[row, :length] = [token.log_prob for token in sequence.tokens]
    return tokens, log_probs
