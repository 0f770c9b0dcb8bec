"""Captions drawn at random: temperature, then top-k, then top-p, and one number of a counter-based generator a token.

The number depends on the seed and the token's position alone, and the draw goes through the tokens in the order of
their ids: neither the rows beside it nor the rounding that swaps two near-equal tokens moves the other tokens' shares.
"""

import numpy as np
import numpy.typing as npt
from resonnx_proto.v1.manifest_pb2 import CaptionerSpec

from resonnx_server.runtime.decoding.greedy import Greedy
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.decoding.step_output import StepOutput, top_suffices

Float64 = npt.NDArray[np.float64]


class Sampling(Greedy):
    """A search (see search.Search) that draws each token.

    Args:
        spec: The captioner's special tokens.
        options: With beam_width 1 and a temperature above 0.
    """

    def __init__(self, spec: CaptionerSpec, options: DecodeOptions) -> None:
        super().__init__(spec, options)
        self._options = options

    def _draws_from_all(self, forbidden: int) -> bool:
        top_k = self._options.top_k or self._vocabulary
        return not top_suffices(top_k, forbidden, self._vocabulary)

    def _choose(self, choices: StepOutput, row: int, forbidden: frozenset[int]) -> tuple[int, float]:
        options = self._options
        if options.top_k or not self._draws_from_all(len(forbidden)):
            pairs = choices.best(row, options.top_k or self._vocabulary, forbidden)
            ids, log_probs = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
        else:
            log_probs = choices.whole(row).astype(np.float64)
            ids = np.arange(len(log_probs))
            log_probs[list(forbidden)] = -np.inf
        probabilities = _sharpened(log_probs, options.temperature)
        if options.top_p < 1:
            probabilities = _nucleus(probabilities, options.top_p)
        chosen = _draw(ids, probabilities, uniform(options.seed, len(self._sequence.tokens)))
        return int(ids[chosen]), float(log_probs[chosen])


def uniform(seed: int, position: int) -> float:
    """Return the number in [0, 1) of a seed and a position (Philox, Salmon et al. 2011)."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())


def _sharpened(log_probs: npt.NDArray[np.floating], temperature: float) -> Float64:
    scaled = np.exp((log_probs.astype(np.float64) - log_probs.max()) / temperature)
    return np.asarray(scaled / scaled.sum())


def _nucleus(probabilities: Float64, top_p: float) -> Float64:
    """Zero all but the fewest most probable whose sum reaches `top_p`; the rest sums to less than one."""
    order = np.argsort(-probabilities, kind="stable")
    kept = order[: int(np.searchsorted(np.cumsum(probabilities[order]), top_p)) + 1]
    result = np.zeros_like(probabilities)
    result[kept] = probabilities[kept]
    return result


def _draw(ids: npt.NDArray[np.int64], probabilities: Float64, number: float) -> int:
    """Return the index that `number` falls on when the shares lie side by side in the order of ids."""
    order = np.argsort(ids, kind="stable")
    order = order[probabilities[order] > 0]
    edges = np.cumsum(probabilities[order])
    position = int(np.searchsorted(edges, number * edges[-1], side="right"))
    return int(order[min(position, len(order) - 1)])
