"""Requests for heatmaps, before they reach the model: models without any, and answers that would be too large."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from resonnx_proto.v1 import manifest_pb2
from resonnx_proto.v1 import vision_pb2 as pb
from resonnx_server.errors import InvalidInput, NoHeatmaps
from resonnx_server.protocol.pieces import Pieces
from resonnx_server.protocol.vision import serving
from resonnx_server.protocol.vision.serving import VisionServing
from resonnx_server.runtime.class_activation import ClassActivation

CLASSES, FEATURES, ROWS, COLUMNS = 100, 3, 8, 10
MAPS = ClassActivation(np.ones((CLASSES, FEATURES), np.float32), np.zeros(CLASSES, np.float32), ROWS, COLUMNS)


class _Request:
    """A request that notes what it holds."""

    def __init__(self, heatmaps: ClassActivation | str) -> None:
        labels = [str(i) for i in range(CLASSES)]
        stretched = manifest_pb2.ImageInput(width=8, height=8, resize=manifest_pb2.ImageInput.RESIZE_STRETCH)
        manifest = manifest_pb2.Manifest(classifier=manifest_pb2.ClassifierSpec(labels=labels), input=stretched)
        self.model = SimpleNamespace(name="m", heatmaps=heatmaps, manifest=manifest)
        self.held: list[tuple[int, bool]] = []

    def hold(self, nbytes: int, *, answer: bool = False) -> None:
        self.held.append((nbytes, answer))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Classify with ones; return the further outputs that were asked for."""
    asked: list[tuple[str, ...]] = []

    async def classify(request: object, picture: object, more: tuple[str, ...]) -> dict[str, np.ndarray]:
        asked.append(more)
        maps = np.ones((1, FEATURES, ROWS, COLUMNS), np.float32)
        return {"probabilities": np.ones((1, CLASSES), np.float32), "feature_map": maps}

    monkeypatch.setattr(serving, "classify", classify)
    return asked


async def _explained(request: Any, top_k: int, most: int | None = None, sharing: int = 1) -> pb.ClassifyResponse:
    picture: Any = SimpleNamespace(size=(40, 30))
    inference: Any = None
    explained = VisionServing(inference, Pieces("test"), most)._explained
    return await explained(pb.ClassifyRequest(return_heatmap=True), request, picture, top_k, sharing)


async def test_memory_is_held_for_the_map_and_for_the_answer(asked: list[tuple[str, ...]]) -> None:
    request = _Request(MAPS)
    response = await _explained(request, 7)
    assert asked == [("feature_map",)]
    assert request.held == [(4 * FEATURES * ROWS * COLUMNS, False), (8 * 7 * ROWS * COLUMNS, True)]
    assert [len(each.heatmap) for each in response.predictions] == [ROWS * COLUMNS] * 7


async def test_a_model_without_heatmaps_is_not_run(asked: list[tuple[str, ...]]) -> None:
    request = _Request("its head has several layers")
    with pytest.raises(NoHeatmaps, match="model 'm' has no heatmaps: its head has several layers"):
        await _explained(request, 7)
    assert not asked
    assert not request.held


async def test_answers_have_a_limit_of_values_where_they_are_text(asked: list[tuple[str, ...]]) -> None:
    most = 10 * ROWS * COLUMNS + 5
    assert len((await _explained(_Request(MAPS), 10, most)).predictions) == 10
    with pytest.raises(InvalidInput, match="top_k: 11 heatmaps of 8 x 10 values; an answer over HTTP has at most 10"):
        await _explained(_Request(MAPS), 11, most)
    assert len(asked) == 1
    assert len((await _explained(_Request(MAPS), 2, most, sharing=5)).predictions) == 2
    with pytest.raises(InvalidInput, match="2 heatmaps of 8 x 10 values of each of 6 pictures"):
        await _explained(_Request(MAPS), 2, most, sharing=6)
    assert len(asked) == 2
