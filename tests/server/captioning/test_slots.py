"""Decode slots: every owner's rows keep their values while others join, branch, leave or fail."""

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.captioning.slots import Slots, host_slots


@dataclass(eq=False)
class Owner:
    """What its rows should hold: tokens and states in order, and the picture that all share."""

    picture: int
    rows: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    states: list[int] = field(default_factory=list)


def _slots(capacity: int) -> Slots[Owner, np.ndarray]:
    return host_slots(capacity, [np.zeros((1, 2), np.int64)], [np.zeros((1, 3), np.int64)])


def _join(slots: Slots[Owner, np.ndarray], picture: int) -> Owner:
    owner = Owner(picture, tokens=[picture], states=[-picture])
    slots.join(owner, owner.tokens, [np.full((1, 2), -picture)], [np.full((1, 3), picture)], 0)
    return owner


def _advance(slots: Slots[Owner, np.ndarray], owner: Owner, sources: list[int], tokens: list[int]) -> None:
    slots.advance(owner, sources, tokens)
    owner.tokens, owner.states = tokens, [owner.states[source] for source in sources]


def _step_alone(slots: Slots[Owner, np.ndarray], owner: Owner, number: int, rng: random.Random) -> None:
    """A step of one owner's rows, padded with its own."""
    count = len(owner.rows)
    size = count + rng.randrange(3)
    tokens, (states,), (features,) = slots.inputs_of(owner, size)
    assert tokens.tolist() == owner.tokens + owner.tokens[:1] * (size - count)
    assert states.tolist() == [[state] * 2 for state in owner.states + owner.states[:1] * (size - count)]
    assert features.tolist() == [[owner.picture] * 3] * size
    owner.states = [100 * number + row for row in range(count)]
    slots.store_of(owner, [np.array([[100 * number + row] * 2 for row in range(size)])])


def _check(slots: Slots[Owner, np.ndarray]) -> None:
    assert sorted(row for owner in slots.owners for row in owner.rows) == list(range(len(slots)))
    tokens, (states,), (features,) = slots.inputs(len(slots))
    for owner in slots.owners:
        assert tokens[owner.rows].tolist() == owner.tokens
        assert states[owner.rows].tolist() == [[state] * 2 for state in owner.states]
        assert (features[owner.rows] == owner.picture).all()


@given(st.integers(0, 2**32), st.integers(4, 24))
def test_rows_keep_their_values(seed: int, capacity: int) -> None:
    rng = random.Random(seed)
    slots = _slots(capacity)
    for number in range(1, 60):
        what, room = rng.random(), capacity - len(slots)
        owners = list(slots.owners)
        if what < 0.3 and room:
            _join(slots, number)
        elif what < 0.45 and owners:
            slots.leave(rng.choice(owners))
        elif what < 0.6:
            given_states = np.array([[100 * number + row] * 2 for row in range(len(slots) + rng.randrange(3))])
            for owner in owners:
                owner.states = [100 * number + row for row in owner.rows]
            slots.store([given_states.reshape(-1, 2)])
        elif what < 0.7 and owners:
            _step_alone(slots, rng.choice(owners), number, rng)
        elif what < 0.75:
            slots.clear_free()
            tokens, (states,), (features,) = slots.inputs(capacity)
            assert not any(array[len(slots) :].any() for array in (tokens, states, features))
        elif owners:
            owner = rng.choice(owners)
            beams = rng.randrange(1, len(owner.rows) + room + 1)
            _advance(slots, owner, rng.choices(range(len(owner.rows)), k=beams), rng.choices(range(99), k=beams))
        _check(slots)
    for owner in list(slots.owners):
        slots.leave(owner)
    assert len(slots) == 0


@pytest.mark.parametrize(
    ("sources", "tokens", "error"),
    [
        ([0, 0, 0, 0, 0, 0, 0], [1] * 7, IndexError),  # more rows than there are
        ([0, 0, 1], [1, 2], IndexError),  # a beam without a token
        ([0, 0, 0, 7], [1] * 4, IndexError),  # from a beam that is none
        ([0, 0, 0], [1, 2, 2**70], OverflowError),
    ],
)
def test_an_owner_whose_advance_failed_leaves_no_row_behind(sources, tokens, error) -> None:
    slots = _slots(6)
    first, failing, last = (_join(slots, picture) for picture in (1, 2, 3))
    _advance(slots, failing, [0, 0], [5, 6])
    with pytest.raises(error):
        slots.advance(failing, sources, tokens)
    assert sorted(row for owner in slots.owners for row in owner.rows) == list(range(len(slots)))
    slots.leave(failing)
    assert len(slots) == 2
    _check(slots)
    assert set(slots.owners) == {first, last}


def test_full_slots_take_no_owner_and_lose_none() -> None:
    slots = _slots(3)
    owners = [_join(slots, picture) for picture in (1, 2)]
    late = Owner(9)
    with pytest.raises(IndexError, match="3 decode slots"):
        slots.join(late, [4, 5], [np.zeros((1, 2))], [np.zeros((1, 3))], 0)
    slots.leave(late)
    assert set(slots.owners) == set(owners)
    _check(slots)
