"""The end of a server with requests of HTTP under way: they finish within the grace period, or hear that it stops."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ....attacks.guarded import eventually
from ... import bare_graphs
from .asking_http import ask


@pytest.mark.parametrize(("turns", "status"), [(1 << 50, 503), (300_000, 200)])
def test_a_request_under_way_is_answered(start_server, tmp_path: Path, turns: int, status: int) -> None:
    model = tmp_path / "models/counting/1/model.onnx"
    model.parent.mkdir(parents=True)
    model.write_bytes(bare_graphs.counting())
    given = {"name": "times", "datatype": "INT64", "shape": [1], "data": [turns]}
    body = json.dumps({"inputs": [given]}).encode()
    grace_s = "0.5" if status == 503 else "30"
    with (
        start_server(tmp_path / "models", "--grace-s", grace_s) as server,
        ThreadPoolExecutor(1) as thread,
    ):
        asked = thread.submit(ask, server.http, "/v2/models/counting/infer", body)
        eventually(lambda: asked.done() or server.metric("resonnx_requests_in_progress", model="counting") == 1)
        server.process.send_signal(signal.SIGTERM)
        answer = asked.result(60)
        assert answer.status == status, answer.body
        if status == 503:
            assert (answer.json["reason"], answer.headers["Retry-After"]) == ("UNAVAILABLE", "1")
        # A run that does not end is left behind.
        assert server.process.wait(60) == (1 if status == 503 else 0)
