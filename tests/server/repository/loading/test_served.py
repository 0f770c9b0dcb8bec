"""Servers with several models: measurements are made alone, and what the cache knows is loaded side by side."""

import json
import os
from pathlib import Path

import pytest
from resonnx_server.runtime.machine.host import usable_cores

from .... import running
from ... import answering

# Of what is cached, two loads meet before they open their sessions, but for the first: one after the other, none would
# get there.
_PATCH = """
import os, threading
from resonnx_server.repository.progress import Progress
meeting, reach = threading.Barrier(2), Progress.reach
def reach_together(self, stage):
    reach(self, stage)
    if stage == "opening" and "MEET" in os.environ and threading.current_thread().name != "load-a":
        meeting.wait(60)
Progress.reach = reach_together
"""
_MODELS = ("a", "b", "c", "d", "e")


def _told(log: Path) -> list[tuple[str, str]]:
    """Return the models and their states in the order in which the server has told of them."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [(line["model"], line["state"].split(" after ")[0]) for line in lines if line["message"] == "loading"]


@pytest.mark.slow
@pytest.mark.skipif(usable_cores() < 2, reason="loads share the cores")
def test_what_is_cached_is_loaded_side_by_side(start_server, tmp_path: Path) -> None:
    repository, cache = tmp_path / "models", tmp_path / "cache"
    for number, name in enumerate(_MODELS):
        answering.write(repository / name / "1", number)
    (tmp_path / "sitecustomize.py").write_text(_PATCH)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    variables = {"PYTHONPATH": path, "RESONNX_CACHE_DIR": str(cache)}
    with start_server(repository, environment=variables) as server:
        told = _told(server.log)
        server.ends_well()
    served = [model for model, state in told if state == "serves"]
    assert sorted(served) == [*_MODELS]
    for model in _MODELS:
        last = len(told) - 1 - told[::-1].index((model, "measuring"))
        meanwhile = told[last + 1 : told.index((model, "serves"))]
        assert all(state == "waiting" for _, state in meanwhile), f"beside the measurements of {model}: {meanwhile}"
    running.settle(cache)
    tables = {file.name: file.read_text() for file in cache.iterdir()}
    with start_server(repository, environment={**variables, "MEET": "1"}) as server:
        told = _told(server.log)
        server.ends_well()
    assert sorted(model for model, state in told if state == "serves") == [*_MODELS]
    assert "waiting" not in [state for _, state in told]
    assert {file.name: file.read_text() for file in cache.iterdir()} == tables
