"""Beam search: the best captions of a few that are decoded side by side, as rows of one shared step.

Two rules of the sources, told apart by the manifest's `finished_beams`:

    SHRINK    a caption that ends takes its beam with it; what is left is decoded with one beam less
              (sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning, caption.py)
    REPLACE   a caption that ends is set aside, and the next best takes its beam
              (ruotianluo/ImageCaptioning.pytorch, CaptionModel.beam_search, whose ended beams live on at -1000)

Both sum log-probabilities; length_normalization only ranks what has ended. Search stops as soon as no caption under
way can beat those wanted, which changes no answer: sums only fall.
"""

import heapq
from collections.abc import Sequence as Rows
from dataclasses import dataclass, replace
from operator import attrgetter, itemgetter
from typing import Final

from resonnx_proto.v1.manifest_pb2 import CaptionerSpec

from resonnx_server.runtime.decoding.search import Constraints, DecodeOptions
from resonnx_server.runtime.decoding.sequence import Sequence, Token
from resonnx_server.runtime.decoding.step_output import StepOutput, top_suffices

# Wu et al. 2016 (GNMT), equation 14, in the middle of the range that the paper found best (0.6 to 0.7).
_GNMT_ALPHA: Final = 0.65


def length_divisor(rule: CaptionerSpec.LengthNormalization, tokens: int) -> float:
    """Return what the sum of a caption's log-probabilities is divided by; its end token counts."""
    if rule == CaptionerSpec.LENGTH_NORMALIZATION_LENGTH:
        return float(tokens)
    if rule == CaptionerSpec.LENGTH_NORMALIZATION_GNMT:
        return float(((5 + tokens) / 6) ** _GNMT_ALPHA)
    return 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Beam:
    """A caption so far; beams share their common past."""

    past: "_Beam | None"
    token: Token
    sum: float
    length: int

    def tokens(self) -> list[Token]:
        tokens = []
        beam: _Beam | None = self
        while beam is not None:
            tokens.append(beam.token)
            beam = beam.past
        return tokens[::-1]


class BeamSearch:
    """A search (see search.Search) over up to `options.beam_width` rows.

    Args:
        spec: The captioner's special tokens, its rule for ended beams, and what none of them may take.
        options: With beam_width 2 or more and no temperature.
    """

    def __init__(self, spec: CaptionerSpec, options: DecodeOptions) -> None:
        self.width = options.beam_width
        self.tokens = [spec.start_id]
        self.finished = False
        self._spec, self._options = spec, options
        self._shrinks = spec.finished_beams != CaptionerSpec.FINISHED_BEAMS_REPLACE
        forbidden = options.forbidden.union(spec.beam_forbidden_ids)
        self._constraints = Constraints(spec, replace(options, forbidden=forbidden))
        # None is the empty caption.
        self._live: list[_Beam | None] = [None]
        self._ended: list[_Beam] = []
        self._cut: list[_Beam] = []
        self._length = 0
        self._told = 0

    @property
    def needs_log_probs(self) -> bool:
        """See Search."""
        if self._constraints.forced(self._length) is not None:
            return True
        forbidden = len(self._constraints.forbidden(self._length))
        return not top_suffices(self.width, forbidden, len(self._spec.vocabulary))

    def advance(self, choices: StepOutput, rows: Rows[int]) -> Rows[int]:
        """See Search."""
        candidates = [
            (log_prob + (beam.sum if beam else 0.0), i, token, log_prob)
            for i, beam in enumerate(self._live)
            for token, log_prob in self._offers(choices, rows[i])
        ]
        self._length += 1
        past, self._live, sources = self._live, [], []
        # Of equal sums the earlier beam and the better token go first: nlargest is stable.
        for total, i, token, log_prob in heapq.nlargest(self.width, candidates, key=itemgetter(0)):
            attention = choices.attention(rows[i]) if self._options.attention else None
            beam = _Beam(past[i], Token(token, log_prob, attention), total, self._length)
            if token == self._spec.end_id:
                self._ended.append(beam)
                self.width -= self._shrinks
            elif self._length >= self._options.max_tokens:
                (self._cut if self._shrinks else self._ended).append(beam)
            else:
                self._live.append(beam)
                sources.append(i)
        self.finished = not self._live or self._is_decided()
        self.tokens = [beam.token.id for beam in self._live if beam]
        return sources

    def certain(self) -> list[Token]:
        """See Search: what all captions that may still win have in common."""
        if self.finished:
            common = self._order()[0].tokens()
        else:
            paths = [beam.tokens() for beam in self._live if beam]
            if self._ended:
                paths.append(max(self._ended, key=self._score).tokens())
            shared = 0
            for column in zip(*paths, strict=False):
                if any(token.id != column[0].id for token in column):
                    break
                shared += 1
            common = paths[0][:shared]
        words = self._sequence(common).shown(self._told)
        self._told = len(common)
        return words

    def ranked(self) -> list[tuple[Sequence, float]]:
        """See Search."""
        best = self._order()[: self._options.captions]
        return [(self._sequence(beam.tokens()), self._score(beam)) for beam in best]

    def _offers(self, choices: StepOutput, row: int) -> list[tuple[int, float]]:
        forced = self._constraints.forced(self._length)
        if forced is not None:
            return [(forced, choices.of_token(row, forced))]
        return choices.best(row, self.width, self._constraints.forbidden(self._length))

    def _order(self) -> list[_Beam]:
        """Captions best first; those cut at max_tokens count only after the ended."""
        unended = self._cut or [beam for beam in self._live if beam]
        return [
            *sorted(self._ended, key=self._score, reverse=True),
            *sorted(unended, key=self._score, reverse=True),
        ]

    def _is_decided(self) -> bool:
        wanted = self._options.captions
        if len(self._ended) < wanted:
            return False
        last_wanted = heapq.nlargest(wanted, map(self._score, self._ended))[-1]
        divisor = length_divisor(self._options.length_normalization, self._options.max_tokens)
        return bool(last_wanted >= max(map(attrgetter("sum"), self._live)) / divisor)

    def _score(self, beam: _Beam) -> float:
        return beam.sum / length_divisor(self._options.length_normalization, beam.length)

    def _sequence(self, tokens: list[Token]) -> Sequence:
        sequence = Sequence(self._spec, self._options.max_tokens)
        sequence.tokens, sequence.finished = tokens, True
        return sequence
