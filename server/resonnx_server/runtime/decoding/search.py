"""The decoding options of a caption request, and the interface of every search.

Pure: no session, no clock. A search reads its own rows of a decoder step and nothing of other rows, so its captions do
not depend on the batch.
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Protocol

from resonnx_proto.v1.manifest_pb2 import CaptionerSpec

from resonnx_server.runtime.decoding.sequence import Sequence, Token
from resonnx_server.runtime.decoding.step_output import StepOutput


@dataclass(frozen=True)
class DecodeOptions:
    """Validated decoding options of one request.

    Attributes:
        max_tokens: Most tokens, the end token included.
        min_tokens: Fewest tokens, the end token included.
        beam_width: 1 is greedy search, or sampling if `temperature` is above 0.
        captions: Captions to return, 1 to `beam_width`.
        length_normalization: Divisor of a beam's log-probability when captions are ranked.
        temperature: 0 takes the best token; above 0, tokens are drawn from probabilities ** (1 / temperature).
        top_k: Sample from this many best tokens; 0 is all.
        top_p: After top_k, sample from the fewest best tokens whose probabilities sum to this share, 0 to 1.
        seed: Seed of the sampling, 0 to 2**64-1.
        forbidden: Token ids that are never chosen.
        prefix: Token ids that the caption begins with.
        attention: Keep the decoder's attention for each token.
    """

    max_tokens: int
    min_tokens: int = 0
    beam_width: int = 1
    captions: int = 1
    length_normalization: CaptionerSpec.LengthNormalization = CaptionerSpec.LENGTH_NORMALIZATION_NONE
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    forbidden: frozenset[int] = frozenset()
    prefix: tuple[int, ...] = ()
    attention: bool = False


class Search(Protocol):
    """The captions of one picture while they are decoded.

    Attributes:
        width: Most rows that it needs from now on.
        tokens: The next input token of each of its rows.
        finished: It needs no further step.
        needs_log_probs: The next step must give all log-probabilities, not only the top tokens'.
    """

    width: int
    tokens: list[int]
    finished: bool
    needs_log_probs: bool

    def advance(self, output: StepOutput, rows: Rows[int]) -> Rows[int]:
        """Choose the next tokens.

        Args:
            output: Output of a step.
            rows: This search's rows in it, in the order of `tokens`.

        Returns:
            For each row of the next step, the index into `rows` of the row that its state comes from.
        """

    def stable_words(self) -> list[Token]:
        """Return the words that joined the stable prefix of the best caption since the last call."""

    def ranked(self) -> list[tuple[Sequence, float]]:
        """Return the finished captions and their ranking scores, best first."""


class Constraints:
    """Tokens that a request forces or forbids, by position.

    Args:
        spec: Gives the end token.
        options: Of the request.

    Attributes:
        changes: Positions, from 0, at which `at` may differ from the position before.
    """

    def __init__(self, spec: CaptionerSpec, options: DecodeOptions) -> None:
        self._options = options
        self._early_forbidden = options.forbidden | {spec.end_id}
        self.changes = {*range(len(options.prefix) + 1), options.min_tokens - 1}

    def at(self, position: int) -> tuple[int | None, frozenset[int]]:
        """Return the forced token of a position, or None, and the forbidden ones."""
        options = self._options
        forced = options.prefix[position] if position < len(options.prefix) else None
        return forced, self._early_forbidden if position + 1 < options.min_tokens else options.forbidden
