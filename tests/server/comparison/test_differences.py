"""Differences of answers, shares of requests, and percentiles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.comparison.differences import Difference, edit_distance, of_probabilities, of_words
from resonnx_server.comparison.latencies import Latencies
from resonnx_server.comparison.shares import Spread, Sticky

_WORDS = st.lists(st.integers(0, 3), max_size=8)


def test_classes_agree_by_the_best_one() -> None:
    served = np.array([[0.5, 0.25, 0.25], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], np.float32)
    new = np.array([[0.4, 0.35, 0.25], [0.5, 0.5, 0.0], [0.2, 0.6, 0.2]], np.float32)
    found = [of_probabilities(*both) for both in zip(served, new, strict=True)]
    assert [each.agrees for each in found] == [True, True, False]
    assert [each.dp for each in found] == pytest.approx([0.1, 0.0, 0.3])


@given(_WORDS, _WORDS, _WORDS)
def test_the_edit_distance_is_a_distance(one: list[int], other: list[int], third: list[int]) -> None:
    distance = edit_distance(one, other)
    assert distance == edit_distance(other, one)
    assert (distance == 0) == (one == other)
    assert abs(len(one) - len(other)) <= distance <= max(len(one), len(other))
    assert distance <= edit_distance(one, third) + edit_distance(third, other)


def test_captions_agree_if_their_words_are_equal() -> None:
    assert of_words([1, 2, 3], [1, 2, 3]) == Difference(agrees=True)
    assert of_words([1, 2, 3, 4], [1, 3, 5]) == Difference(agrees=False, edits=2)


@given(st.floats(0, 1), st.integers(0, 200), st.integers(1, 300))
def test_a_spread_share_is_even_in_every_stretch(share: float, skipped: int, length: int) -> None:
    spread = Spread(share)
    for _ in range(skipped):
        spread.chooses()
    assert abs(sum(spread.chooses() for _ in range(length)) - share * length) <= 4


@given(st.floats(0, 1), st.floats(0, 1), st.text())
def test_a_larger_share_of_callers_contains_a_smaller_one(one: float, other: float, key: str) -> None:
    small, large = (Sticky(share, "m") for share in sorted((one, other)))
    assert small.chooses(key) <= large.chooses(key)
    assert small.chooses(key) == small.chooses(key)
    assert Sticky(1, "m").chooses(key)
    assert not Sticky(0, "m").chooses(key)


def test_a_share_of_callers_is_about_that_of_all_and_another_for_another_model() -> None:
    keys = [f"ip:10.0.{n // 250}.{n % 250}" for n in range(4000)]
    first, second = ({key for key in keys if Sticky(0.25, salt).chooses(key)} for salt in ("m", "n"))
    assert 850 < len(first) < 1150
    assert 850 < len(second) < 1150
    assert 150 < len(first & second) < 350


@given(st.lists(st.integers(10_000, 10**11), min_size=1, max_size=200), st.sampled_from((0.5, 0.9, 0.99, 1.0)))
def test_percentiles_are_exact_to_two_percent(times: list[int], share: float) -> None:
    latencies = Latencies()
    for ns in times:
        latencies.add(ns)
    exact = sorted(times)[max(0, -(-round(share * 100) * len(times) // 100) - 1)] / 1e9
    assert exact * 0.999 <= latencies.quantile_s(share) <= exact * 1.021
