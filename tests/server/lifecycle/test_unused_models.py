"""A real server with `unload_unused_s`: an unused model's memory is given back, and its next request is answered."""

import json
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from ...running import RunningServer, StartServer

_SIDE = 3000


def _write(version: Path) -> int:
    """Write a product with a constant of 36 MB; returns the file's size."""
    weights = numpy_helper.from_array(np.full((_SIDE, _SIDE), 0.5, np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", _SIDE])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", _SIDE])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    version.mkdir(parents=True)
    (version.parent / "config.toml").write_text("max_batch_size = 1\n")
    return (version / "model.onnx").write_bytes(model.SerializeToString())


def _ask(server: RunningServer) -> float:
    values = [1.0] * _SIDE
    body = {"inputs": [{"name": "x", "shape": [1, _SIDE], "datatype": "FP32", "data": values}]}
    request = urllib.request.Request(f"http://{server.http}/v2/models/m/infer", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as response:
        return float(json.load(response)["outputs"][0]["data"][0])


def _until_unloaded(server: RunningServer, expected: float) -> None:
    end = time.monotonic() + 30
    while server.metric("resonnx_model_unloaded", model="m") != expected:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_memory_is_given_back_and_the_next_request_opens_the_model(start_server: StartServer, tmp_path: Path) -> None:
    size = _write(tmp_path / "models" / "m" / "1")
    with start_server(tmp_path / "models", "--unload-unused-s", "1", "--cache-dir", "none") as server:
        assert _ask(server) == _SIDE / 2
        loaded = server.own_bytes()
        _until_unloaded(server, 1)
        end = time.monotonic() + 30
        while server.own_bytes() > loaded - 0.8 * size:
            assert time.monotonic() < end, (loaded, server.own_bytes(), size)
            time.sleep(0.05)
        assert server.get("/readyz") == (200, "ready\nunloaded m version 1\n")
        assert server.metric("resonnx_model_ready", model="m") == 1
        assert _ask(server) == _SIDE / 2
        assert server.metric("resonnx_reopened_models_total", model="m") == 1
        _until_unloaded(server, 1)
        (tmp_path / "models" / "m" / "1" / "model.onnx").rename(tmp_path / "away")
        with pytest.raises(urllib.error.HTTPError) as caught:
            _ask(server)
        assert caught.value.code == 503
        assert "the model was unloaded, and cannot be opened again" in caught.value.read().decode()
        (tmp_path / "away").rename(tmp_path / "models" / "m" / "1" / "model.onnx")
        assert _ask(server) == _SIDE / 2
        assert "an unloaded model cannot be opened again" in server.log.read_text()
        server.ends_well()
