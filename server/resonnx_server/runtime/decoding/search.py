"""How one picture's caption is searched for: the options of a request, and what every kind of search offers.

Pure: no session, no clock. A search takes one row of a decoder step, or several (beams); it knows nothing of the rows
beside them, so what it finds does not depend on the company.
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from typing import Protocol

from resonnx_proto.v1.manifest_pb2 import CaptionerSpec

from resonnx_server.runtime.decoding.sequence import Sequence, Token
from resonnx_server.runtime.decoding.step_output import StepOutput


@dataclass(frozen=True)
class DecodeOptions:
    """How to decode; checked by whoever takes them from outside.

    Attributes:
        max_tokens: Most tokens, the end token included.
        min_tokens: The end token may not come before it is this one, counted from 1.
        beam_width: 1 is greedy, or sampling if `temperature` is above 0.
        captions: How many to return, at most `beam_width`.
        length_normalization: By what beams' sums of log-probabilities are divided when captions are ranked.
        temperature: 0 takes the best token; above, tokens are drawn from probabilities ** (1 / temperature).
        top_k: Draw among so many best tokens; 0 is all.
        top_p: Draw among the fewest best tokens whose probabilities sum up to it, after top_k.
        seed: 0 to 2**64-1; the same seed gives the same draws.
        forbidden: Tokens that may not come.
        prefix: Tokens that the caption begins with.
        attention: Keep where the decoder looked, token by token.
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
    forbidden: frozenset[int] = field(default=frozenset())
    prefix: tuple[int, ...] = ()
    attention: bool = False


class Search(Protocol):
    """One picture's captions on their way.

    Attributes:
        width: Most rows that it may take from now on.
        tokens: What each of its rows is fed next.
        finished: No further step is wanted.
    """

    width: int
    tokens: list[int]
    finished: bool

    @property
    def needs_log_probs(self) -> bool:
        """Whether the next step must give all log-probabilities, not just the top."""

    def advance(self, choices: StepOutput, rows: Rows[int]) -> Rows[int]:
        """Take a step's answer.

        Args:
            choices: Of all rows of the step.
            rows: Which of them are this search's, in the order of `tokens`.

        Returns:
            For each row of the next step, which of `rows` (an index into it) its state comes from.
        """

    def certain(self) -> list[Token]:
        """Return the words of the best caption that have become certain since the last call."""

    def ranked(self) -> list[tuple[Sequence, float]]:
        """Return the captions and the scores that rank them, best first; when finished."""


class Constraints:
    """What a request forbids and forces, position by position.

    Args:
        spec: For the end token.
        options: The request's.
    """

    def __init__(self, spec: CaptionerSpec, options: DecodeOptions) -> None:
        self._prefix = options.prefix
        self._min_tokens = options.min_tokens
        self._forbidden = options.forbidden
        self._early_forbidden = options.forbidden | {spec.end_id}

    def forced(self, position: int) -> int | None:
        """Return the token that must come at `position` (from 0), if one must."""
        return self._prefix[position] if position < len(self._prefix) else None

    def forbidden(self, position: int) -> frozenset[int]:
        """Return the tokens that may not come at `position`."""
        return self._early_forbidden if position + 1 < self._min_tokens else self._forbidden
