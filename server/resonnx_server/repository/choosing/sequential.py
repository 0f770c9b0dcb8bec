"""A sequential test: which of several candidates is fastest, or at most 3 % slower than the fastest. Pure.

All candidates run once in each turn, so that what changes the machine's speed for longer than a turn cancels in the
ratios of their times. Only the signs of these ratios against a bound count, so single disturbed runs weigh little. Two
statements are tested for each pair after every turn:

    a is acceptable beside b    the median of a's time over b's is below 1.03
    a is slower than b          the median of a's time over b's is above 1.01; a is left out

Between 1.01 and 1.03 either is right, so that a test near a bound ends soon (Wald's zone of indifference). The first
candidate that is left, in the order of preference, wins when it is acceptable beside all others that are left.

Each statement has evidence of its own, a mixture of Wald's likelihood ratios for signs:

    E = mean over b of (1 + b)^agreeing * (1 - b)^opposing

If the statement is wrong, each factor's expectation is at most 1 given the turns before, so E is a non-negative
supermartingale that begins at 1, and ever reaches 1/error with a probability of at most `error`, whenever one looks:
J. Ville, Étude critique de la notion de collectif, 1939; A. Wald, Sequential Tests of Statistical Hypotheses, Annals of
Mathematical Statistics 16 (1945) 117; mixtures: H. Robbins, Statistical Methods Related to the Law of the Iterated
Logarithm, Annals of Mathematical Statistics 41 (1970) 1397. The result is wrong if the fastest is left out, or a slower
one accepted beside it: 2 (n - 1) statements about n candidates, among which `error` is divided.
"""

import math
from collections.abc import Mapping
from statistics import median
from typing import Final

# Shares of the time between which it does not matter which of two candidates is chosen, as logarithms.
ACCEPTABLE: Final = math.log(1.03)
SLOWER: Final = math.log(1.01)
# The bets: high ones end a clear race after few turns, low ones a close race after many.
_BETS: Final = (0.15, 0.3, 0.5, 0.7, 0.9, 0.98)


class Evidence:
    """Evidence for a statement from independent signs: that they agree with it more often than not."""

    __slots__ = ("_agreeing", "_opposing")

    def __init__(self) -> None:
        self._agreeing = self._opposing = 0

    def add(self, *, agrees: bool) -> None:
        """Note a sign."""
        self._agreeing += agrees
        self._opposing += not agrees

    @property
    def log(self) -> float:
        """The logarithm of E, see above."""
        logs = [self._agreeing * math.log1p(bet) + self._opposing * math.log1p(-bet) for bet in _BETS]
        highest = max(logs)
        return highest + math.log(math.fsum(math.exp(each - highest) for each in logs) / len(logs))


class Race:
    """The test.

    Args:
        count: Number of candidates, known by their place in the order of preference, from 0.
        error: Probability that the winner is more than 3 % slower than the fastest, at most.

    Attributes:
        left: Candidates that may still win, in the order of preference.
        rounds: Turns so far.
    """

    def __init__(self, count: int, error: float = 0.05) -> None:
        self.left = list(range(count))
        self.rounds = 0
        self._enough = math.log(2 * max(1, count - 1) / error)
        self._scores: list[list[float]] = [[] for _ in range(count)]
        pairs = [(one, other) for one in self.left for other in self.left if one != other]
        self._acceptable = {pair: Evidence() for pair in pairs}
        self._slower = {pair: Evidence() for pair in pairs}

    def add(self, scores: Mapping[int, float]) -> None:
        """Note a turn.

        Args:
            scores: Logarithm of the time of each candidate that is left.
        """
        self.rounds += 1
        for one, score in scores.items():
            self._scores[one].append(score)
            for other, beside in scores.items():
                if one != other:
                    self._acceptable[one, other].add(agrees=score - beside < ACCEPTABLE)
                    self._slower[one, other].add(agrees=score - beside > SLOWER)
        self.left = [one for one in self.left if not self._is_slower(one)] or self.left

    def leave_out(self, candidate: int) -> None:
        """Leave out a candidate that cannot run."""
        self.left.remove(candidate)

    @property
    def winner(self) -> int | None:
        """The candidate that has won; None while that is not settled."""
        if not self.left:
            return None
        first, *others = self.left
        is_settled = all(self._acceptable[first, other].log >= self._enough for other in others)
        return first if is_settled else None

    @property
    def leader(self) -> int:
        """The winner, or the candidate to take if no time is left: the first that seems acceptable beside all others.

        At least one candidate must be left, and have run.
        """
        if (winner := self.winner) is not None:
            return winner
        behind = {one: max((self.ratio(one, other) for other in self.left), default=0.0) for one in self.left}
        between = max((ACCEPTABLE + SLOWER) / 2, min(behind.values()))
        return next(one for one in self.left if behind[one] <= between)

    def ratio(self, one: int, other: int) -> float:
        """Return the median logarithm of one candidate's time over the other's, in the turns of both."""
        pairs = zip(self._scores[one], self._scores[other], strict=False)
        return median(mine - theirs for mine, theirs in pairs)

    def median(self, candidate: int) -> float:
        """Return the median of a candidate's scores; infinite before its first turn."""
        return median(self._scores[candidate] or (math.inf,))

    def _is_slower(self, one: int) -> bool:
        return any(self._slower[one, other].log >= self._enough for other in self.left if other != one)
