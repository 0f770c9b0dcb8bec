"""Beam search: the best captions of a few that are decoded side by side, each in a row of a shared step.

Two rules of the sources, chosen by the manifest's `finished_beams`:

    SHRINK    a caption that ends takes its beam with it: the search goes on with one beam less
              (sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning, caption.py)
    REPLACE   a caption that ends is set aside, and the next best takes its beam
              (ruotianluo/ImageCaptioning.pytorch, CaptionModel.beam_search, whose ended beams live on at -1000)

Both sum log-probabilities; length_normalization only ranks ended captions. The search stops when no live beam can beat
the wanted captions, which changes no result: sums only fall.
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
    """Return the divisor of a caption's log-probability; `tokens` includes the end token."""
    if rule == CaptionerSpec.LENGTH_NORMALIZATION_LENGTH:
        return float(tokens)
    if rule == CaptionerSpec.LENGTH_NORMALIZATION_GNMT:
        return float(((5 + tokens) / 6) ** _GNMT_ALPHA)
    return 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Beam:
    """An unfinished or finished caption; beams share their common past."""

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
    """A search (search.Search) over up to `options.beam_width` rows.

    Args:
        spec: Gives the special tokens, the rule for ended beams, and the tokens that no beam may take.
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
        self._emitted = 0
        self._constrain()

    def advance(self, output: StepOutput, rows: Rows[int]) -> Rows[int]:
        candidates = [
            (log_prob + (beam.sum if beam else 0.0), i, token, log_prob)
            for i, beam in enumerate(self._live)
            for token, log_prob in self._candidates(output, rows[i])
        ]
        self._length += 1
        past, self._live, sources = self._live, [], []
        # Of equal sums the earlier beam and the better token come first: nlargest is stable.
        for total, i, token, log_prob in heapq.nlargest(self.width, candidates, key=itemgetter(0)):
            attention = output.attention(rows[i]) if self._options.attention else None
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
        self._constrain()
        return sources

    def stable_words(self) -> list[Token]:
        # The common prefix of all captions that can still win.
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
        words = self._sequence(common).shown(self._emitted)
        self._emitted = len(common)
        return words

    def ranked(self) -> list[tuple[Sequence, float]]:
        best = self._order()[: self._options.captions]
        return [(self._sequence(beam.tokens()), self._score(beam)) for beam in best]

    def _constrain(self) -> None:
        self._forced, self._forbidden = self._constraints.at(self._length)
        suffices = top_suffices(self.width, len(self._forbidden), len(self._spec.vocabulary))
        self.needs_log_probs = self._forced is not None or not suffices

    def _candidates(self, output: StepOutput, row: int) -> list[tuple[int, float]]:
        if self._forced is not None:
            return [(self._forced, output.of_token(row, self._forced))]
        return output.best(row, self.width, self._forbidden)

    def _order(self) -> list[_Beam]:
        """Return captions best first; those cut at max_tokens come after the ended ones."""
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
        return Sequence(self._spec, self._options.max_tokens, tokens)
