"""Captions of one picture at a time, as plainly as they can be decoded: what a server's answers are compared with.

ONNX Runtime and NumPy alone, nothing of the server. It also says how near every decision was, in log-probability: a
caption may differ from what another order of summing gives only where that is tiny.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from resonnx_proto.v1.manifest_pb2 import CaptionerSpec
from resonnx_proto.v1.vision_pb2 import CaptionRequest


@dataclass(frozen=True)
class Decoded:
    """Captions (tokens and the sum of their log-probabilities), best first, and the nearest of all decisions."""

    captions: list[tuple[list[int], float]]
    margin: float


@dataclass(frozen=True)
class _Beam:
    tokens: list[int]
    sum: float
    state: list[np.ndarray]


class PlainDecoder:
    """encoder.onnx and decoder.onnx of a captioner whose ended beams shrink the search and that has a start token.

    Args:
        folder: A version folder.
        spec: Its manifest's.
    """

    def __init__(self, folder: Path, spec: CaptionerSpec) -> None:
        assert spec.finished_beams == CaptionerSpec.FINISHED_BEAMS_SHRINK
        assert spec.length_normalization == CaptionerSpec.LENGTH_NORMALIZATION_NONE
        self._spec = spec
        self._words = {word: i for i, word in enumerate(spec.vocabulary)}
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._encoder, self._decoder = (
            ort.InferenceSession(folder / file, options, providers=["CPUExecutionProvider"])
            for file in ("encoder.onnx", "decoder.onnx")
        )
        names = [output.name for output in self._encoder.get_outputs()]
        self._states = [name for name in names if name.startswith("state_")]
        self._features = [name for name in names if name.startswith("feature_")]

    def decode(self, picture: np.ndarray, request: CaptionRequest) -> Decoded:
        """Caption uint8 [H,W,3] as a request wants it."""
        names = self._states + self._features
        encoded = dict(zip(names, self._encoder.run(names, {"image": picture[None]}), strict=True))
        state = [encoded[name] for name in self._states]
        features = {name: encoded[name] for name in self._features}
        if request.temperature:
            return self._sample(state, features, request)
        return self._beams(state, features, request)

    def _step(
        self, token: int, state: list[np.ndarray], features: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        feeds = {"token": np.array([token]), **dict(zip(self._states, state, strict=True)), **features}
        wanted = ["log_probs", *(f"next_{name}" for name in self._states)]
        log_probs, *state = self._decoder.run(wanted, feeds)
        return log_probs[0].astype(np.float64), state

    def _positions(self, request: CaptionRequest) -> Iterator[np.ndarray]:
        """For each position, what is added to the log-probabilities: 0, or -inf where a token may not come."""
        forbidden = [self._words[word] for word in request.forbidden_words]
        for position in range(request.max_tokens or self._spec.max_tokens):
            mask = np.zeros(len(self._words))
            if position < len(request.prefix):
                mask[:] = -np.inf
                mask[self._words[request.prefix[position]]] = 0
            else:
                mask[forbidden] = -np.inf
                if position + 1 < request.min_tokens:
                    mask[self._spec.end_id] = -np.inf
            yield mask

    def _beams(self, state: list[np.ndarray], features: dict[str, np.ndarray], request: CaptionRequest) -> Decoded:
        """sgrvinod's search; of width 1 it is greedy."""
        end, width = self._spec.end_id, request.beam_width or self._spec.beam_width or 1
        live, ended, margins = [_Beam([], 0.0, state)], [], []
        for mask in self._positions(request):
            grown = []
            for beam in live:
                log_probs, state = self._step(
                    beam.tokens[-1] if beam.tokens else self._spec.start_id, beam.state, features
                )
                grown += [
                    _Beam([*beam.tokens, token], beam.sum + log_probs[token], state)
                    for token in np.flatnonzero(np.isfinite(mask)).tolist()
                ]
            grown.sort(key=lambda beam: -beam.sum)
            if len(grown) > width:
                margins.append(grown[width - 1].sum - grown[width].sum)
            ended += [beam for beam in grown[:width] if beam.tokens[-1] == end]
            live = [beam for beam in grown[:width] if beam.tokens[-1] != end]
            width -= sum(beam.tokens[-1] == end for beam in grown[:width])
            if not live:
                break
        ranked = sorted(ended, key=lambda beam: -beam.sum) + sorted(live, key=lambda beam: -beam.sum)
        wanted = request.num_captions or 1
        for i, beam in enumerate(ranked[:wanted]):
            # What did not end comes after what did, however its sum compares.
            margins += [beam.sum - other.sum for other in ranked[i + 1 : i + 2] if (beam in live) == (other in live)]
        return Decoded([(beam.tokens, beam.sum) for beam in ranked[:wanted]], min(margins, default=np.inf))

    def _sample(self, state: list[np.ndarray], features: dict[str, np.ndarray], request: CaptionRequest) -> Decoded:
        tokens, total, margins = [], 0.0, []
        for position, mask in enumerate(self._positions(request)):
            log_probs, state = self._step(tokens[-1] if tokens else self._spec.start_id, state, features)
            allowed = log_probs + mask
            if position >= len(request.prefix) and request.top_k:
                order = np.argsort(-allowed, kind="stable")
                if np.isfinite(allowed[order[request.top_k :]]).any():
                    margins.append(allowed[order[request.top_k - 1]] - allowed[order[request.top_k]])
                allowed[order[request.top_k :]] = -np.inf
            shares = np.exp((allowed - allowed.max()) / request.temperature)
            shares /= shares.sum()
            if 0 < request.top_p < 1:
                order = np.argsort(-shares, kind="stable")
                reached = np.cumsum(shares[order])
                kept = int(np.searchsorted(reached, request.top_p)) + 1
                margins.append(np.abs(reached - request.top_p).min())
                shares[order[kept:]] = 0
                shares /= shares.sum()
            number = np.random.Generator(np.random.Philox(key=request.seed, counter=position)).random()
            edges = np.cumsum(shares)
            token = int(np.searchsorted(edges, number, side="right"))
            margins.append(np.abs(edges - number)[shares > 0].min() if (shares > 0).sum() > 1 else np.inf)
            tokens.append(token)
            total += log_probs[token]
            if token == self._spec.end_id:
                break
        return Decoded([(tokens, total)], min(margins))
