"""Good rows stay within the bound at every look, others do not; what is counted does not depend on batches."""

import tracemalloc

import numpy as np
import pytest
from resonnx_server.drift.cells import caption_cells, picture_cells
from resonnx_server.drift.estimate import WINDOWS, Estimate
from resonnx_server.drift.usual import Usual
from resonnx_server.runtime.model_files.drift_reference import NO_TOKEN

SIZE = 8
# Overlapping directions: most variance is in one of them.
MIX = np.random.default_rng(1).standard_normal((SIZE, SIZE)) * np.linspace(3, 0.1, SIZE)[:, np.newaxis]


def projections(rng: np.random.Generator, count: int, shift: float = 0) -> np.ndarray:
    normal = rng.standard_normal((count, SIZE))
    normal[:, -1] += shift
    return (np.tanh(normal) @ MIX).astype(np.float32)


@pytest.fixture(scope="module")
def usual() -> Usual:
    return Usual.of(projections(np.random.default_rng(2), 200), picture_cells)


def _worst(usual: Usual, rows: np.ndarray, every: int = 10) -> float:
    estimate, worst = Estimate(usual, SIZE), 0.0
    for start in range(0, len(rows), every):
        estimate.add(rows[start : start + every])
        worst = max([worst, *(reading.distance / reading.bound for reading in estimate.readings())])
    return worst


@pytest.mark.parametrize("run", range(10))
def test_good_rows_stay_within_the_bound_at_every_look(usual: Usual, run: int) -> None:
    assert 0.2 < _worst(usual, projections(np.random.default_rng((3, run)), 2000)) < 1


def test_few_pictures_that_come_again_and_again_are_good_ones(usual: Usual) -> None:
    rng = np.random.default_rng(4)
    stock = projections(rng, 200)
    assert _worst(usual, stock[rng.integers(len(stock), size=3000)]) < 1


@pytest.mark.parametrize("often", ["one picture in half of the requests", "each picture 50 times in a row"])
def test_unusual_traffic_of_good_pictures_is_told(usual: Usual, often: str) -> None:
    """A load test, or a camera that stands still: docs/drift.md tells the operator."""
    rows = projections(np.random.default_rng(13), 2000)
    if often.startswith("one"):
        rows[::2] = rows[0]
    else:
        rows = rows[:40].repeat(50, axis=0)
    assert _worst(usual, rows) > 1


@pytest.mark.parametrize("shift", [2, -2])
def test_a_change_in_a_direction_of_little_variance_is_seen(usual: Usual, shift: float) -> None:
    rng = np.random.default_rng(5)
    assert _worst(usual, projections(rng, 300, shift)) > 1
    estimate = Estimate(usual, SIZE)
    estimate.add(projections(rng, 2000))
    estimate.add(projections(rng, 200, shift))
    assert any(reading.distance > reading.bound for reading in estimate.readings())


def test_the_bound_knows_how_few_pictures_the_reference_has() -> None:
    """A reference of few pictures differs itself: without its own error in the bound, good rows would be too far."""
    rng = np.random.default_rng(6)
    small = Usual.of(projections(rng, 100), picture_cells)
    estimate = Estimate(small, SIZE)
    estimate.add(projections(rng, 20_000))
    slow = estimate.readings()[-1]
    assert (small.scale / slow.effective) ** 0.5 < slow.distance < slow.bound


def test_rows_that_were_held_back_widen_the_bound() -> None:
    """With as many directions as pictures allow, cells fit the very pictures that they were chosen by."""
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((100, 60)).astype(np.float32)
    usual = Usual.of(rows, picture_cells)
    live = usual.cells(rng.standard_normal((4000, 60)).astype(np.float32)).mean(axis=0)
    known = Usual(usual.cells, usual.shares, usual.rows, usual.scale)
    assert known.distance(live) < known.bound(4000)


def test_readings_begin_with_enough_rows_and_windows_fill(usual: Usual) -> None:
    rng, estimate = np.random.default_rng(8), Estimate(usual, SIZE)
    estimate.add(projections(rng, 29))
    assert estimate.readings() == []
    estimate.add(projections(rng, 10_000))
    readings = estimate.readings()
    assert tuple(reading.window for reading in readings) == WINDOWS
    for reading in readings:
        assert reading.effective == pytest.approx(reading.window, rel=0.01)
        assert reading.bound == usual.bound(reading.effective)


@pytest.mark.parametrize("every", [1, 7, 64, 100, 1000])
def test_how_rows_come_in_batches_changes_nothing(usual: Usual, every: int) -> None:
    rows = projections(np.random.default_rng(9), 1000)
    whole, parts = Estimate(usual, SIZE), Estimate(usual, SIZE)
    whole.add(rows)
    for start in range(0, len(rows), every):
        parts.add(rows[start : start + every])
    for expected, found in zip(whole.readings(), parts.readings(), strict=True):
        assert found == pytest.approx(expected)


def test_directions_without_variance_do_no_harm() -> None:
    rows = projections(np.random.default_rng(10), 200)
    rows[:, 0] = 0
    usual = Usual.of(rows, picture_cells)
    assert _worst(usual, rows) < 1
    assert Usual.of(np.zeros((100, 3), np.float32), picture_cells).distance(usual.shares[:1]) >= 0


def captions(rng: np.random.Generator, count: int, *, words: int = 6, least: int = 2) -> np.ndarray:
    tokens = np.full((count, 10), NO_TOKEN, np.int32)
    for row in tokens:
        length = rng.integers(least, 9)
        row[:length] = rng.integers(0, words, length)
    return tokens


def test_words_and_lengths_of_captions() -> None:
    rng = np.random.default_rng(11)
    usual = Usual.of(captions(rng, 200), caption_cells)

    def worst(tokens: np.ndarray) -> float:
        estimate = Estimate(usual, tokens.shape[1], np.int32, NO_TOKEN)
        estimate.add(tokens)
        return max(reading.distance / reading.bound for reading in estimate.readings())

    assert worst(captions(rng, 500)) < 1
    # Longer ones, ones without a frequent word, and ones with words that the reference has not.
    assert worst(captions(rng, 500, least=6)) > 1
    assert worst(captions(rng, 500, words=3)) > 1
    assert worst(captions(rng, 500, words=40)) > 1


def test_a_reference_of_a_large_vocabulary_takes_little_memory() -> None:
    tokens = captions(np.random.default_rng(14), 1000)
    tokens[0, 0] = 1_000_000
    tracemalloc.start()
    caption_cells(tokens)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A few numbers for each word, not one for each word and caption.
    assert most < 40 << 20


def test_captions_that_are_shorter_than_those_before_keep_no_words_of_them() -> None:
    usual = Usual.of(captions(np.random.default_rng(12), 200), caption_cells)
    estimate = Estimate(usual, 10, np.int32, NO_TOKEN)
    estimate.add(np.full((64, 10), 1, np.int32))
    for _ in range(5000):
        estimate.add(np.array([[2, 3]], np.int32))
    direct = Estimate(usual, 10, np.int32, NO_TOKEN)
    direct.add(np.tile(np.array([[2, 3]], np.int32), (5000, 1)))
    assert estimate.readings()[0].distance == pytest.approx(direct.readings()[0].distance, rel=1e-3)
