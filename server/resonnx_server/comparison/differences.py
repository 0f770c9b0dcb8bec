"""How two answers for one picture differ."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Difference(NamedTuple):
    """The difference of two answers.

    Attributes:
        agrees: The same best class, or the same words.
        dp: Largest absolute difference of a probability; 0 for captions.
        edits: Words to insert, delete or replace to make one caption of the other; 0 for classes.
    """

    agrees: bool
    dp: float = 0.0
    edits: int = 0


def of_probabilities(served: npt.NDArray[np.float32], new: npt.NDArray[np.float32]) -> Difference:
    """Return the difference of two classifiers' probabilities [K].

    Where the best classes have equal probabilities, that with the lowest index is the best, as in answers.
    """
    dp = float(np.abs(np.subtract(served, new, dtype=np.float64)).max())
    return Difference(bool(served.argmax() == new.argmax()), dp)


def of_words(served: Sequence[int], new: Sequence[int]) -> Difference:
    """Return the difference of two captions, given as ids of words."""
    edits = 0 if list(served) == list(new) else edit_distance(served, new)
    return Difference(not edits, edits=edits)


def edit_distance(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the least number of insertions, deletions and replacements that make one sequence of the other."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]
