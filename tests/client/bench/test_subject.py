"""The JSON of `resonnx bench` names what was measured, with what, and by what."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import grpc
import pytest
from resonnx import Client
from resonnx.cli import app
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc
from typer.testing import CliRunner


def measure(server: str, out: Path, *more: str) -> dict[str, dict[str, object]]:
    arguments = ["--server", server, "--warmup", "0", "--duration", "0.3", "--json", str(out)]
    done = CliRunner().invoke(app, ["bench", *arguments, *more])
    assert (done.exit_code, done.stderr) == (0, "")
    return json.loads(out.read_text())


@pytest.mark.parametrize("model", ["digits", "scenes"])
def test_the_model_is_named_as_the_server_names_it(demo_server, tmp_path: Path, model) -> None:
    content = measure(demo_server.grpc, tmp_path / "out.json", "--model", model, "--concurrency", "2,3")
    with Client(demo_server.grpc) as client:
        info = client.model(model)
    assert info.identity
    assert content["measured"] == {
        "model": model,
        "version": info.summary.version,
        "task": info.summary.task,
        "identity": info.identity,
        "verified": True,
        "sessions": [
            {"file": x.file, "provider": x.provider, "precision": x.precision, "instances": x.instances}
            for x in info.sessions
        ],
        "server": {"name": "resonnx", "version": version("resonnx-server")},
    }
    assert content["client"] == {"name": "resonnx", "version": version("resonnx")}


@pytest.mark.parametrize(
    ("load", "told"),
    [
        (("--concurrency", "2,3"), ([2, 3], None, None)),
        (("--rate", "20,30"), (None, [20, 30], None)),
    ],
)
def test_settings_name_the_loads(demo_server, tmp_path: Path, load, told) -> None:
    settings = measure(demo_server.grpc, tmp_path / "out.json", "--model", "digits", "--seed", "5", *load)["settings"]
    assert (settings["concurrency"], settings["rate"], settings["search_p99_ms"]) == told
    expected = {"model": "digits", "input": "pixels", "stream": False, "warmup_s": 0, "seconds": 0.3, "seed": 5}
    assert expected.items() <= settings.items()


class Foreign(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """A server of the tensor protocol that is not ours."""

    def ServerMetadata(self, request, context):  # noqa: N802
        return pb.ServerMetadataResponse(name="foreign", version="2.1")

    def ModelMetadata(self, request, context):  # noqa: N802
        metadata = pb.ModelMetadataResponse(name=request.name)
        metadata.inputs.add(name="x", datatype="UINT8", shape=[-1, 4])
        if request.name == "options":
            # One that cannot be made up, and one that could.
            metadata.inputs.add(name="text", datatype="BYTES", shape=[-1])
            metadata.inputs.add(name="scale", datatype="FP32", shape=[1])
        return metadata

    def ModelConfig(self, request, context):  # noqa: N802
        if request.name != "options":
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "an extension")
        answer = pb.ModelConfigResponse()
        for name, optional in (("x", False), ("text", True), ("scale", True)):
            answer.config.input.add(name=name, optional=optional)
        return answer

    def ModelInfer(self, request, context):  # noqa: N802
        if [tensor.name for tensor in request.inputs] != ["x"]:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "x is all that is needed")
        return pb.ModelInferResponse(model_name=request.model_name)


@pytest.fixture
def foreign() -> Iterator[str]:
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Foreign(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(grace=None).wait()


def test_of_another_server_only_its_name_is_told(foreign, tmp_path: Path) -> None:
    content = measure(foreign, tmp_path / "out.json", "--model", "m", "--input", "tensor", "--concurrency", "1")
    assert content["measured"] == {"model": "m", "server": {"name": "foreign", "version": "2.1"}}


def test_optional_inputs_are_left_out(foreign, tmp_path: Path) -> None:
    flags = ("--model", "options", "--input", "tensor", "--concurrency", "1")
    (run,) = measure(foreign, tmp_path / "out.json", *flags)["runs"]
    assert run["ok"] > 0
    assert not run["errors"]
