"""What is usual: the shares of cells on reference pictures, and how far those of good requests may be from them.

The distance of two samples is D = sqrt(mean over cells of (difference of shares)^2): for the cells of a projection, the
distance of Cramer and von Mises between both distributions, averaged over directions (a sliced distance). If both
samples are of one population, and have a and b rows, D^2 / (1/a + 1/b) is nearly a weighted sum of chi-squares, whose
weights are the eigenvalues of the cells' covariance: Laurent and Massart (2000, Lemma 1) bound its quantiles.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from resonnx_server.drift.cells import Cells, Rows
from resonnx_server.runtime.model_files.drift_reference import Float

# Log of the chance that good requests exceed the bound at one look. Looks are many, and runs of requests are long.
_RARITY: Final = 14.0
# Parts of the reference; each is compared with the others once.
_PARTS: Final = 10

# Chooses the cells by reference rows.
Fit = Callable[[Rows], Cells]


@dataclass(frozen=True)
class Usual:
    """The reference.

    Attributes:
        cells: The cells of rows.
        shares: float32 [d], of the cells on the reference rows.
        rows: Number m of reference rows.
        scale: Bound of D^2 / (1/a + 1/b) for two samples of one population.
    """

    cells: Cells
    shares: Float
    rows: int
    scale: float

    @classmethod
    def of(cls, rows: Rows, fit: Fit) -> Self:
        """Choose cells by the reference rows, and calibrate the bound on them.

        Cells that are chosen by the very rows fit them better than others. So the scale is multiplied by how much
        farther rows are that were held back: cells are chosen, and shares taken, without a tenth of the rows, whose
        distance is measured; once for each tenth.
        """
        cells = fit(rows)
        found = cells(rows)
        expected = _weights(found)
        held_back = usual = 0.0
        for part in range(_PARTS):
            is_part = np.arange(len(rows)) % _PARTS == part
            others = fit(rows[~is_part])
            mine, theirs = others(rows[is_part]), others(rows[~is_part])
            held_back += float(((mine.mean(axis=0) - theirs.mean(axis=0)) ** 2).mean())
            usual += float(_weights(theirs).sum()) * (1 / len(mine) + 1 / len(theirs))
        farther = max(1.0, held_back / usual) if usual else 1.0
        return cls(cells, found.mean(axis=0), len(rows), farther * _quantile(expected))

    def distance(self, shares: Float) -> float:
        """Return the distance of `shares` [d] from the reference, 0 to 1."""
        return math.sqrt(float(np.square(shares - self.shares).mean()))

    def bound(self, effective: float) -> float:
        """Return the largest distance of good requests, given the effective number of their rows.

        The reference has a sampling error of its own, and requests bring the same pictures again: they are taken for a
        draw from a stock as large as the reference, whose own error they share.
        """
        return math.sqrt(self.scale * (1 / effective + 2 / self.rows))


def _weights(found: Float) -> npt.NDArray[np.float64]:
    """Return the eigenvalues of the covariance of cells [n,d], divided by d."""
    rows, size = found.shape
    centred = found.astype(np.float64) - found.mean(axis=0, dtype=np.float64)
    product = centred @ centred.T if rows < size else centred.T @ centred
    eigenvalues: npt.NDArray[np.float64] = np.linalg.eigvalsh(product)
    weights: npt.NDArray[np.float64] = np.maximum(eigenvalues, 0) / (max(rows - 1, 1) * size)
    return weights


def _quantile(weights: npt.NDArray[np.float64]) -> float:
    """Return what a sum of chi-squares with these weights exceeds with a chance of exp(-_RARITY) at most."""
    x = _RARITY
    return float(weights.sum() + 2 * math.sqrt(x * float(np.square(weights).sum())) + 2 * x * weights.max(initial=0))
