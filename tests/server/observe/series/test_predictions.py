"""Predictions are counted as counting row by row would, however they are grouped."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.observe.series.predictions import HALF_LIFE, MOST_CLASSES, Predictions


def _rows(classes: int, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), n).astype(np.float32)


def _entropy(row: np.ndarray) -> float:
    return -sum(p * math.log(p) for p in row.tolist() if p > 0) / math.log(len(row))


@given(st.integers(2, 40), st.lists(st.integers(1, 90), min_size=1, max_size=8), st.integers(0, 99))
def test_groups_do_not_matter(classes: int, groups: list[int], seed: int) -> None:
    rows = _rows(classes, sum(groups), seed)
    predictions = Predictions([str(i) for i in range(classes)])
    for part in np.split(rows, np.cumsum(groups)[:-1]):
        predictions.add(part)
    predictions.count()
    confidences, entropies = rows.max(axis=1).astype(float), [_entropy(row) for row in rows]
    assert predictions.confidence.sum == pytest.approx(float(confidences.sum()), rel=1e-5)
    assert predictions.entropy.sum == pytest.approx(sum(entropies), rel=1e-5)
    for histogram, values in ((predictions.confidence, confidences), (predictions.entropy, entropies)):
        for bound, count, *_ in histogram.buckets():
            # A value may be rounded across a bound.
            limit = math.inf if bound == "+Inf" else float(bound)
            sure = sum(value <= limit - 1e-6 for value in values), sum(value <= limit + 1e-6 for value in values)
            assert sure[0] <= count <= sure[1]


def test_certain_and_undecided() -> None:
    predictions = Predictions(["a", "b", "c", "d"])
    predictions.add(np.array([[1, 0, 0, 0], [0.25] * 4], np.float32))
    predictions.count()
    assert predictions.entropy.sum == pytest.approx(1.0), "none, and the most"
    assert predictions.confidence.sum == pytest.approx(1.25)
    assert Predictions(["a", "b"]).shares() == ({}, 0.0)


def test_most_frequent_classes_and_the_others() -> None:
    predictions = Predictions([str(i) for i in range(100)])
    rows = np.eye(100, dtype=np.float32)
    for index in range(100):
        predictions.add(rows[[index] * (1 + 2 * (index < 30))])
    shares, others = predictions.shares()
    assert len(shares) == MOST_CLASSES
    assert set(shares) <= set(range(30))
    assert sum(shares.values()) + others == pytest.approx(1)
    assert others > 0.5


def test_earlier_predictions_fade() -> None:
    predictions = Predictions(["old", "new"])
    old, new = (np.eye(2, dtype=np.float32)[[index] * HALF_LIFE] for index in (0, 1))
    for _ in range(20):
        predictions.add(old)
    predictions.add(new)
    shares, _ = predictions.shares()
    assert shares[1] == pytest.approx(0.5, abs=0.1)
