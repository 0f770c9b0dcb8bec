"""The command line: health, and the model repository."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from resonnx import Client
from resonnx_proto.inference import grpc_service_pb2 as inference_pb2
from resonnx_proto.v1 import vision_pb2

from ...server.bare_graphs import doubling


@pytest.mark.parametrize(
    ("status", "printed", "exit_status"), [("SERVING", "serving", 0), ("NOT_SERVING", "not_serving", 3)]
)
def test_health_is_an_exit_status(run, vision, status: str, printed: str, exit_status: int) -> None:
    vision.script["Check"] = lambda request, context: health_pb2.HealthCheckResponse(status=status)
    done = run("health")
    assert (done.stdout, done.exit_code) == (f"{printed}\n", exit_status)
    done = run("health", "--model", "digits:canary", "--json")
    assert (json.loads(done.stdout), done.exit_code) == ({"model": "digits:canary", "status": printed}, exit_status)
    assert [request.service for request in vision.requests] == ["", "resonnx.v1.Vision/digits:canary"]


def test_health_of_an_unknown_model_and_of_no_server(run, vision) -> None:
    vision.script["Check"] = lambda request, context: vision.fail(context, grpc.StatusCode.NOT_FOUND, "no such service")
    done = run("health", "--model", "nobody")
    assert (done.stdout, done.exit_code) == ("unknown\n", 4)
    done = run("health", "--server", "127.0.0.1:1", "--timeout", "5")
    assert (done.stdout, done.exit_code) == ("", 1)
    assert "server 127.0.0.1:1 is not available" in done.stderr
    assert run("health", "--model", "a:").exit_code == 2


def test_health_is_watched_until_interrupted(vision) -> None:
    """A change is a line, and so is a server that goes; it is watched again."""
    turns = iter([["SERVING", "NOT_SERVING"], ["NOT_SERVING", "SERVING"]])

    def watch(request, context):
        for status in next(turns):
            yield health_pb2.HealthCheckResponse(status=status)
        context.abort(grpc.StatusCode.UNAVAILABLE, "going")

    vision.script["Watch"] = watch
    command = [sys.executable, "-m", "resonnx", "health", "--watch", "--json", "--server", vision.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(5)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) != 0
    told = [line["status"] for line in lines]
    assert told == ["serving", "not_serving", "unreachable", "not_serving", "serving"]
    assert all(line["time"] and line["model"] is None for line in lines)


@pytest.fixture
def index(vision) -> None:
    """A model of two versions, of which one is refused."""
    models = inference_pb2.RepositoryIndexResponse()
    models.models.add(name="digits", version="3", state="READY")
    models.models.add(name="digits", version="4", state="UNAVAILABLE", reason="damaged")
    models.models.add(name="scenes", version="1", state="READY")
    listed = vision_pb2.ListModelsResponse()
    listed.models.add(name="digits", version=3, labels=["stable", "canary"])
    vision.script["RepositoryIndex"] = lambda request, context: models
    vision.script["ListModels"] = lambda request, context: listed


@pytest.mark.usefixtures("index")
def test_the_repository_as_a_table_and_as_lines(run) -> None:
    done = run("repo", "ls")
    assert (done.stdout, done.exit_code) == (
        "NAME    VERSION  LABELS         STATE        REASON\n"
        "digits  3        stable,canary  ready        -\n"
        "digits  4        -              unavailable  damaged\n"
        "scenes  1        -              ready        -\n",
        0,
    )
    lines = [json.loads(line) for line in run("repo", "ls", "digits", "--json").stdout.splitlines()]
    assert lines == [
        {"name": "digits", "version": "3", "labels": ["stable", "canary"], "state": "ready", "reason": ""},
        {"name": "digits", "version": "4", "labels": [], "state": "unavailable", "reason": "damaged"},
    ]
    done = run("repo", "ls", "nobody")
    assert (done.exit_code, done.stderr) == (1, "resonnx: the repository has no model 'nobody'\n")


@pytest.mark.usefixtures("index")
def test_a_load_shows_what_became_of_it_and_a_refusal_its_reason(run, vision) -> None:
    vision.script["RepositoryModelLoad"] = lambda request, context: inference_pb2.RepositoryModelLoadResponse()
    done = run("repo", "load", "scenes")
    assert (done.stdout.splitlines()[1:], done.exit_code) == (["scenes  1        -       ready  -"], 0)
    info = error_details_pb2.ErrorInfo(reason="ADMIN_PORT_ONLY", domain="resonnx")
    vision.script["RepositoryModelUnload"] = lambda request, context: vision.fail(
        context, grpc.StatusCode.PERMISSION_DENIED, "served on the admin port only", info
    )
    done = run("repo", "unload", "scenes")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "resonnx: served on the admin port only (--server names its address)\n"
    done = run("repo", "unload", "scenes", "--json")
    assert json.loads(done.stdout)["error"]["reason"] == "ADMIN_PORT_ONLY"
    assert done.exit_code == 1


def test_a_real_server_loads_and_unloads(start_server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run) -> None:
    (tmp_path / "double/1").mkdir(parents=True)
    (tmp_path / "double/1/model.onnx").write_bytes(doubling())
    with start_server(tmp_path, "--control-mode", "explicit", "--admin-port", "0") as server:
        assert server.admin is not None
        monkeypatch.setenv("RESONNX_SERVER", server.admin)
        assert run("health", "--model", "double").exit_code == 4
        done = run("repo", "load", "double")
        assert (done.exit_code, done.stderr) == (0, "")
        assert done.stdout.splitlines()[1].split() == ["double", "1", "-", "ready", "-"]
        assert run("health", "--model", "double:1").stdout == "serving\n"
        with Client(server.grpc) as client:
            assert client.model("double:1").summary.is_default
        assert "admin port" in run("repo", "unload", "double", "--server", server.grpc).stderr
        assert run("repo", "unload", "double").stdout == "double is unloaded\n"
        assert run("health", "--model", "double").exit_code != 0
