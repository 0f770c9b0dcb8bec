"""Kept pictures: few, within the memory budget, and given back."""

import numpy as np
from resonnx_server.comparison.copies import Copies
from resonnx_server.comparison.differences import Difference
from resonnx_server.comparison.kept import Kept
from resonnx_server.memory.budget import Budget

_PIXELS = np.zeros((1, 8, 8, 3), np.uint8)
_BASE, _NEW = np.float32([0.7, 0.3]), np.float32([0.3, 0.7])


def keep(kept: Kept, budget: Budget, count: int) -> None:
    """Offer disagreements, whose copies end as after a comparison."""
    copies = Copies(budget)
    for _ in range(count):
        copies.offer(_PIXELS, [_BASE], 1)
        (copy,) = copies.take(1)
        kept.add(copy, _NEW, Difference(False, 0.4))
        copy.charge.release()


async def test_the_first_are_kept_and_charged_until_they_are_cleared() -> None:
    budget = Budget(1 << 24)
    kept = Kept(3, budget, of_new=True)
    keep(kept, budget, 9)
    assert (len(kept.found), budget.used) == (3, 3 * _PIXELS.nbytes)
    assert [each.base is _BASE and each.new is _NEW for each in kept.found] == [True] * 3
    kept.clear()
    assert (len(kept.found), budget.used) == (0, 0)


async def test_they_take_a_sixteenth_of_the_memory_and_none_that_requests_need() -> None:
    budget = Budget(64 * _PIXELS.nbytes)
    kept = Kept(1000, budget, of_new=True)
    keep(kept, budget, 9)
    assert (len(kept.found), budget.used) == (4, 4 * _PIXELS.nbytes)
    kept.clear()
    copies = Copies(budget)
    copies.offer(_PIXELS, [_BASE], 1)
    (copy,) = copies.take(1)
    with copy.charge, budget.charge("ip:a", 40 * _PIXELS.nbytes), budget.charge("ip:b", 18 * 192, answer=True):
        kept.add(copy, _NEW, Difference(False, 0.4))
    assert (kept.found, budget.used) == ([], 0)
