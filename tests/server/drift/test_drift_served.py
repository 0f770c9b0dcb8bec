"""Drift on /metrics of a real server: good pictures are within the bound, others are not."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from resonnx import Client
from resonnx_export.demo import samples

from ...running import RunningServer

Readings = dict[tuple[str, str], dict[str, float]]


def _drift(server: RunningServer, model: str) -> Readings:
    """Return distance, bound and rows of a model's requests, by what they are of and by window."""
    _, page = server.get("/metrics")
    found: Readings = {}
    labels = rf'model="{model}",version="1",of="(\w+)",traffic="requests",window="(\d+)"'
    for what, of, window, value in re.findall(rf"resonnx_drift_(\w+)\{{{labels}\}} (\S+)", page):
        found.setdefault((of, window), {})[what] = float(value)
    return found


def _worst(readings: Readings) -> float:
    return max(each["distance"] / each["bound"] for each in readings.values())


def _files(folder: Path, pictures: Iterable[np.ndarray]) -> list[Path]:
    folder.mkdir()
    files = []
    for number, picture in enumerate(pictures):
        files.append(folder / f"{number}.png")
        Image.fromarray(picture).save(files[-1])
    return files


def _ask(client: Client, model: str, files: list[Path]) -> None:
    answers = (client.classify_many if model == "digits" else client.caption_many)(files, model)
    assert len([answer for answer in answers if answer is not None]) == len(files)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["digits", "scenes"])
def test_the_alerts_condition_becomes_true(start_server, demo_repository: Path, tmp_path: Path, model: str) -> None:
    if model == "digits":
        good = samples.halves_of_digits()[1][:90]
    else:
        good = [scene.image for scene in samples.scenes(77, 90)]
    with start_server(demo_repository) as server, Client(server.grpc) as client:
        # Loads, with their golden pictures and measured batches, count nothing.
        assert _drift(server, model) == {}
        _ask(client, model, _files(tmp_path / "good", good))
        readings = _drift(server, model)
        assert {of for of, _ in readings} == {"pictures", *(["captions"] if model == "scenes" else [])}
        # 90 rows, however batches were padded: r = 1 - 2/101, 100 (1 - r^90) / (1 + r^90) effective ones.
        assert {round(each["rows"], 1) for (_, window), each in readings.items() if window == "100"} == {71.6}
        assert 0.1 < _worst(readings) < 1
        _ask(client, model, _files(tmp_path / "bad", [255 - picture for picture in good]))
        assert _worst(_drift(server, model)) > 2
