"""Sampled captions: temperature, then top-k, then top-p, and one number of a counter-based generator for each token.

The number depends on the seed and the token's position only, and tokens are drawn in the order of their ids: neither
other rows nor rounding that swaps two near-equal tokens changes the probability of a third.
"""

import numpy as np
import numpy.typing as npt

from resonnx_server.runtime.decoding.greedy import Greedy
from resonnx_server.runtime.decoding.step_output import StepOutput, top_suffices

Float64 = npt.NDArray[np.float64]


class Sampling(Greedy):
    """A search (search.Search) that draws each token; needs beam_width 1 and a temperature above 0."""

    def _reads_all(self) -> bool:
        top_k = self._options.top_k or self._vocabulary
        return not top_suffices(top_k, len(self._forbidden), self._vocabulary)

    def _choose(self, output: StepOutput, row: int) -> tuple[int, float]:
        options, forbidden = self._options, self._forbidden
        if options.top_k or not self.needs_log_probs:
            pairs = output.best(row, options.top_k or self._vocabulary, forbidden)
            ids, log_probs = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
        else:
            log_probs = output.whole(row).astype(np.float64)
            ids = np.arange(len(log_probs))
            log_probs[list(forbidden)] = -np.inf
        probabilities = _sharpened(log_probs, options.temperature)
        if options.top_p < 1:
            probabilities = _nucleus(probabilities, options.top_p)
        chosen = _draw(ids, probabilities, uniform(options.seed, len(self._decoded)))
        return int(ids[chosen]), float(log_probs[chosen])


def uniform(seed: int, position: int) -> float:
    """Return the number in [0, 1) of a seed and a position (Philox, Salmon et al. 2011)."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())


def _sharpened(log_probs: npt.NDArray[np.floating], temperature: float) -> Float64:
    scaled = np.exp((log_probs.astype(np.float64) - log_probs.max()) / temperature)
    return np.asarray(scaled / scaled.sum())


def _nucleus(probabilities: Float64, top_p: float) -> Float64:
    """Set all to zero but the fewest most probable that sum to `top_p`."""
    order = np.argsort(-probabilities, kind="stable")
    kept = order[: int(np.searchsorted(np.cumsum(probabilities[order]), top_p)) + 1]
    result = np.zeros_like(probabilities)
    result[kept] = probabilities[kept]
    return result


def _draw(ids: npt.NDArray[np.int64], probabilities: Float64, number: float) -> int:
    """Return the index whose interval holds `number`, with the probabilities side by side in the order of ids."""
    order = np.argsort(ids, kind="stable")
    order = order[probabilities[order] > 0]
    edges = np.cumsum(probabilities[order])
    position = int(np.searchsorted(edges, number * edges[-1], side="right"))
    return int(order[min(position, len(order) - 1)])
