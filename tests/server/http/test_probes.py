"""/livez, /readyz and /metrics, over HTTP: the states of a registry, and a real server."""

import asyncio
import socket
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc
from resonnx_server.access.gate import Gate
from resonnx_server.errors import Unavailable
from resonnx_server.http.probes import Probes
from resonnx_server.inference.registry import Models, Refusal
from resonnx_server.observe.metrics import Metrics


def _get(models: Models, path: str) -> tuple[int, str]:
    """Status and text of one page of a server that has these models."""

    def get(port: int) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    async def served() -> tuple[int, str]:
        probes = Probes(models, Metrics(), Gate(None, admits_admin=False))
        try:
            return await asyncio.to_thread(get, await probes.start("127.0.0.1", 0))
        finally:
            await probes.stop()

    return asyncio.run(served())


def _add(models: Models, name: str) -> Any:
    model: Any = SimpleNamespace(name=name, version=1, engine=SimpleNamespace(is_paused=False, is_unloaded=False))
    models.add(model)
    return model


def test_readiness_follows_the_models() -> None:
    models = Models()
    models.expect({"digits": 1, "scenes": 1})
    loading = "not ready: loading models\n"
    assert _get(models, "/readyz") == (503, f"{loading}loading digits version 1\nloading scenes version 1\n")
    _add(models, "digits")
    assert _get(models, "/readyz") == (503, f"{loading}serving digits version 1\nloading scenes version 1\n")
    models.refuse(Refusal("scenes", 1, "a wrong checksum"))
    models.loading = False
    lines = "serving digits version 1\nrefused scenes version 1: a wrong checksum\n"
    assert _get(models, "/readyz") == (200, "ready\n" + lines)
    models.strict = True
    assert _get(models, "/readyz") == (503, "not ready: a model is refused\n" + lines)
    models.draining = True
    assert _get(models, "/readyz") == (503, "not ready: shutting down\n" + lines)


def test_ready_with_the_first_model() -> None:
    models = Models(ready_with_first=True)
    models.expect({"digits": 1, "scenes": 1})
    assert _get(models, "/readyz")[0] == 503
    _add(models, "digits")
    assert _get(models, "/readyz") == (200, "ready\nserving digits version 1\nloading scenes version 1\n")


def test_a_server_without_models_is_alive_but_not_ready() -> None:
    models = Models(loading=False)
    assert _get(models, "/readyz") == (503, "not ready: no model serves\n")
    assert _get(models, "/livez") == (200, "alive\n")


def test_a_model_whose_session_is_replaced_is_not_ready_meanwhile_and_one_that_stopped_never() -> None:
    models = Models(loading=False)
    model = _add(models, "digits")
    model.engine.is_paused = True
    assert _get(models, "/readyz") == (503, "not ready: no model serves\nreplacing a session of digits version 1\n")
    assert _get(models, "/livez")[0] == 200
    model.engine.is_paused = False
    assert _get(models, "/readyz")[0] == 200
    _add(models, "scenes")
    models.refuse(Refusal("digits", 1, "a run hung", was_served=True))
    assert _get(models, "/readyz") == (200, "ready\nserving scenes version 1\nstopped digits version 1: a run hung\n")
    assert _get(models, "/livez")[0] == 200
    with pytest.raises(Unavailable, match="cannot serve any more: a run hung"):
        models.get("digits")
    models.refuse(Refusal("scenes", 1, "a run hung", was_served=True))
    assert _get(models, "/livez") == (503, "dead: no model can serve any more; restart the server\n")


def test_a_taken_port_is_an_error() -> None:
    async def start(port: int) -> None:
        probes = Probes(Models(), Metrics(), Gate(None, admits_admin=False))
        try:
            await probes.start("127.0.0.1", port)
        finally:
            await probes.stop()

    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="in use"):
        asyncio.run(start(other.getsockname()[1]))


def test_pages_of_a_real_server(demo_server) -> None:
    assert demo_server.get("/livez") == (200, "alive\n")
    status, text = demo_server.get("/readyz")
    assert status == 200
    assert "serving digits version 1" in text
    assert demo_server.get("/nothing")[0] == 404


def test_a_grpc_client_at_the_wrong_port_is_no_error_of_ours(start_server, demo_repository: Path) -> None:
    with start_server(demo_repository, "--log-level", "warning") as server:
        with grpc.insecure_channel(server.http) as channel, pytest.raises(grpc.RpcError):
            vision_pb2_grpc.VisionStub(channel).ListModels(vision_pb2.ListModelsRequest(), timeout=5)
        assert server.get("/livez")[0] == 200
        assert "Traceback" not in server.log.read_text()
