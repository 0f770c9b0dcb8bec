"""Answers of the task API's classifiers: the best classes, made in pieces."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_proto.v1 import vision_pb2
from resonnx_server.protocol.pieces import at_once
from resonnx_server.protocol.vision.answers import classify_response
from resonnx_server.runtime.class_activation import ClassActivation


def _response(scores: np.ndarray, top_k: int, *, features: bool = False) -> vision_pb2.ClassifyResponse:
    outputs = {"probabilities": scores[np.newaxis], "features": np.array([[0.5, -1]], np.float32)}
    return at_once(classify_response(outputs, [f"label {i}" for i in range(len(scores))], top_k, features=features))


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=600), st.data())
def test_the_best_classes_come_best_first(scores: list[float], data: st.DataObject) -> None:
    top_k = data.draw(st.integers(1, len(scores)))
    predictions = _response(np.array(scores, np.float32), top_k).predictions
    assert [each.score for each in predictions] == sorted(scores, reverse=True)[:top_k]
    assert len({each.index for each in predictions}) == top_k
    for each in predictions:
        assert (each.label, each.score) == (f"label {each.index}", scores[each.index])


def test_features_are_told_where_they_are_wanted() -> None:
    scores = np.array([0.25, 0.75], np.float32)
    assert list(_response(scores, 1, features=True).features) == [0.5, -1]
    assert not _response(scores, 1).features


@pytest.mark.parametrize(("classes", "pieces"), [(200, 1), (21_841, 86)])
def test_many_classes_are_many_pieces(classes: int, pieces: int) -> None:
    """All at once, twenty thousand classes would hold the event loop for 50 ms."""
    outputs = {"probabilities": np.random.default_rng(0).random((1, classes), np.float32)}
    work = classify_response(outputs, [""] * classes, classes, features=False)
    assert sum(1 for _ in work) == pieces


@pytest.mark.parametrize(("classes", "pieces"), [(3, 1), (100, 4)])
def test_heatmaps_are_of_each_class_and_many_are_many_pieces(classes: int, pieces: int) -> None:
    rng = np.random.default_rng(0)
    weights, bias = rng.random((classes, 4), np.float32), rng.random(classes, np.float32)
    maps = ClassActivation(weights, bias, 2, 3)
    # As products of a large network.
    maps = ClassActivation(np.repeat(weights, 20_000, axis=1), bias, 2, 3) if classes > 3 else maps
    features = maps.weights.shape[1]
    outputs = {
        "probabilities": rng.random((1, classes), np.float32),
        "feature_map": rng.random((1, features, 2, 3), np.float32),
    }
    labels = [str(i) for i in range(classes)]
    area = (0.125, 0, 0.875, 1)
    work = classify_response(outputs, labels, classes, features=False, heatmaps=maps, area=area)
    if classes > 3:
        assert sum(1 for _ in work) > pieces
        return
    response = at_once(work)
    assert (response.heatmap_rows, response.heatmap_columns) == (2, 3)
    shown = response.heatmap_area
    assert (shown.left, shown.top, shown.right, shown.bottom) == area
    for each in response.predictions:
        expected = np.einsum("d,dhw->hw", weights[each.index], outputs["feature_map"][0])
        assert np.reshape(each.heatmap, (2, 3)) == pytest.approx(expected, rel=1e-5)
        assert each.heatmap_bias == bias[each.index]
