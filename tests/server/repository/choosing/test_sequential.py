"""The sequential test chooses the best candidate or one within 3 % of it, in at least 95 of 100 noisy races."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.repository.choosing.sequential import Evidence, Race

RACES = 100


def _race(times: tuple[float, ...], noise: float, rng: random.Random, most: int) -> Race:
    """Race until it is settled, or `most` turns.

    Each turn has a speed of the machine that all share, and one run in ten is disturbed, up to several times as long.
    """
    race = Race(len(times))
    while race.winner is None and race.rounds < most:
        machine = rng.gauss(0, 0.3)

        def log(time: float, machine: float = machine) -> float:
            disturbed = abs(rng.gauss(0, 0.7)) if rng.random() < 0.1 else 0.0
            return math.log(time) + machine + rng.gauss(0, noise) + disturbed

        race.add({one: log(times[one]) for one in race.left})
    return race


@pytest.mark.parametrize("noise", [0.01, 0.05])
@pytest.mark.parametrize(
    "times",
    [
        (1.0, 1.0),
        (1.02, 1.0),
        (1.04, 1.0),
        (1.0, 1.04),
        (1.33, 1.0),
        (1.0, 1.33),
        (1.0, 1.02, 1.04, 1.5),
        (1.1, 1, 1.01),
    ],
    ids=str,
)
def test_the_winner_is_the_best_or_within_three_percent(times: tuple[float, ...], noise: float) -> None:
    rng = random.Random(f"{times} {noise}")
    chosen = Counter(_race(times, noise, rng, 200).leader for _ in range(RACES))
    right = sum(count for one, count in chosen.items() if times[one] <= 1.03 * min(times))
    assert right >= 0.95 * RACES, chosen


@pytest.mark.parametrize(("times", "turns"), [((1.33, 1.0), 40), ((1.0, 1.33), 40), ((1.0, 1.0), 120)])
def test_clear_races_are_settled_within_few_turns(times: tuple[float, ...], turns: int) -> None:
    rng = random.Random(1)
    races = [_race(times, 0.02, rng, turns) for _ in range(RACES)]
    assert sum(race.winner is not None for race in races) >= 0.95 * RACES
    assert min(race.rounds for race in races) >= 7, "no luck of few turns decides"


def test_of_equal_ones_the_first_is_chosen() -> None:
    rng = random.Random(2)
    chosen = Counter(_race((1.0, 1.0, 1.0), 0.03, rng, 200).leader for _ in range(RACES))
    assert chosen[0] >= 0.95 * RACES


def test_evidence_against_fair_signs_is_rarely_high() -> None:
    """By Ville's inequality at most one sequence of fair signs in 20 ever reaches 20, at whatever turn it stops."""
    rng, reached = random.Random(3), 0
    for _ in range(1000):
        evidence = Evidence()
        for _ in range(150):
            evidence.add(agrees=rng.random() < 0.5)
            if evidence.log >= math.log(20):
                reached += 1
                break
    assert reached <= 60
    assert reached > 0


@given(st.integers(0, 12))
def test_the_mean_of_the_evidence_of_fair_signs_is_one(turns: int) -> None:
    """Over all sequences: what Ville's inequality needs."""
    mean = 0.0
    for agreeing in range(turns + 1):
        evidence = Evidence()
        for turn in range(turns):
            evidence.add(agrees=turn < agreeing)
        mean += math.comb(turns, agreeing) * math.exp(evidence.log) / 2**turns
    assert mean == pytest.approx(1.0)


@given(
    st.integers(2, 4).flatmap(
        lambda count: st.lists(st.lists(st.floats(-3, 3), min_size=count, max_size=count), min_size=1, max_size=60)
    )
)
def test_whatever_the_times_somebody_leads(turns: list[list[float]]) -> None:
    race = Race(len(turns[0]))
    for scores in turns:
        race.add({one: scores[one] for one in race.left})
        assert race.left == sorted(race.left)
        assert race.leader in race.left
        assert race.winner in (None, race.leader)
        if race.winner is not None:
            break


def test_one_that_cannot_run_leaves_the_race() -> None:
    race = Race(2)
    race.add({0: 0.0, 1: -1.0})
    race.leave_out(1)
    assert race.winner == race.leader == 0
    race.leave_out(0)
    assert race.winner is None
