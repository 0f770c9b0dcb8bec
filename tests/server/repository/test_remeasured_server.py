"""A server that was started beside busy processes measures again while it is idle, and answers as before meanwhile."""

import os
import time
from functools import partial
from pathlib import Path

import pytest

from .. import answering
from .test_control import Caller

# Until the file QUIET exists, other processes seem to hold the processors, whoever runs beside the tests.
_PATCH = """
import os
from resonnx_server.repository.choosing.turns import Raced
from resonnx_server.repository.life import remeasuring
from resonnx_server.runtime.machine.processor_time import ProcessorTime
remeasuring._LOOK_S, remeasuring._QUIET_S = 0.02, 0.2
remeasuring._FIRST_PAUSE_S, remeasuring._LONGEST_PAUSE_S = 0.05, 0.2
ProcessorTime.is_disturbed = property(lambda self: not os.path.exists(os.environ["QUIET"]))
Raced.is_doubtful = property(lambda self: self.received.is_disturbed)
"""


@pytest.mark.slow
def test_idle_time_is_used_and_requests_are_answered(start_server, tmp_path: Path) -> None:
    repository, quiet = tmp_path / "models", tmp_path / "quiet"
    answering.write(repository / "m" / "1", 7)
    (tmp_path / "sitecustomize.py").write_text(_PATCH)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    variables = {"PYTHONPATH": path, "QUIET": str(quiet), "RESONNX_CACHE_DIR": str(tmp_path / "cache")}
    with start_server(repository, environment=variables) as server:
        caller = Caller(server)
        assert server.metric("resonnx_model_measurements_doubtful", model="m") == 1
        quiet.touch()
        ends = time.monotonic() + 1
        while time.monotonic() < ends:
            assert caller.classify() == (1, 7)
        replaced = partial(server.metric, "resonnx_model_remeasurements_total", model="m", result="replaced")
        assert replaced() == 0, "calls came all the time"
        # Attempts begin in the gaps, and calls end the first of them.
        for gap_s in (0.21, 0.22, 0.25, 0.3, 0.4, 0.6, 1, 3, 10, 20):
            time.sleep(gap_s)
            assert caller.classify() == (1, 7)
            if replaced():
                break
        assert replaced() == 1
        assert server.metric("resonnx_model_measurements_doubtful", model="m") == 0
        assert server.metric("resonnx_model_ready", model="m") == 1
        assert caller.classify() == (1, 7)
        server.ends_well()
