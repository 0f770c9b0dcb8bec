"""Start, readiness, drain and stop of real server processes, and what damaged repositories do."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import onnx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc


def _start_fails(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "resonnx_server", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def _said(stderr: str) -> list[str]:
    """The server's own lines: on some machines ONNX Runtime has something to say, too."""
    return [line for line in stderr.splitlines() if line.startswith(("{", "resonnx-server: "))]


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return _said(done.stderr)[-1]


@pytest.fixture
def digits_alone(demo_repository: Path, tmp_path: Path) -> Path:
    """A repository that is soon measured."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/digits").symlink_to(demo_repository / "digits")
    return tmp_path / "models"


def test_a_cache_that_cannot_be_used_is_told_once(start_server, digits_alone: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    flags = ("--cache-dir", str(file / "cache"), "--log-level", "warning")
    with start_server(digits_alone, *flags) as server:
        (line,) = (json.loads(line) for line in server.log.read_text().splitlines() if "cache" in line)
    assert (line["message"], line["folder"]) == ("cache_dir cannot be used", str(file / "cache"))


def test_without_cache_dir_the_users_cache_folder_keeps_tables(
    start_server, digits_alone: Path, tmp_path: Path
) -> None:
    """Or each start would measure anew."""
    environment = {"RESONNX_CACHE_DIR": "", "XDG_CACHE_HOME": str(tmp_path), "HOME": "/nowhere"}
    with start_server(digits_alone, environment=environment):
        assert list((tmp_path / "resonnx").glob("latency-*.json"))


@pytest.mark.parametrize("port_flag", ["--port", "--http-port"])
def test_port_in_use(demo_repository: Path, port_flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = {"--port": "0", "--http-port": "0", port_flag: port}
        flags = [part for pair in ports.items() for part in pair]
        done = _start_fails("--repository", str(demo_repository), *flags)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in _last_line(done)
    assert f"({port_flag}" in _last_line(done)
    assert len(_said(done.stderr)) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--repository", "does-not-exist"], 1, "No such file"),
        (["--repository", ".", "--port", "99999"], 2, "port"),
        (["--repository", ".", "--provider", "abacus"], 2, "provider"),
        (["--config", "does-not-exist.toml"], 2, "does-not-exist.toml"),
        ([], 2, "repository"),
    ],
)
def test_bad_settings(flags: list[str], status: int, message: str) -> None:
    done = _start_fails(*flags)
    assert done.returncode == status
    assert message in _last_line(done)
    assert "Traceback" not in done.stderr


def test_a_model_in_place_of_a_repository(demo_repository: Path) -> None:
    done = _start_fails("--repository", str(demo_repository / "digits"), "--port", "0", "--http-port", "0")
    assert done.returncode == 1
    assert "this is one model's folder; give the folder above it" in _last_line(done)


def test_empty_repository(tmp_path: Path) -> None:
    done = _start_fails("--repository", str(tmp_path), "--port", "0", "--http-port", "0")
    assert done.returncode == 1
    assert "no model can be served" in _last_line(done)


def test_missing_provider_is_an_error_never_a_fall_back(demo_repository: Path) -> None:
    done = _start_fails(
        "--repository", str(demo_repository), "--port", "0", "--http-port", "0", "--provider", "tensorrt"
    )
    assert done.returncode == 1
    assert "provider 'tensorrt' is not installed or finds no device here" in _last_line(done)


@pytest.fixture
def repository(demo_repository: Path, tmp_path: Path) -> Path:
    """A copy of the demo repository, to harm."""
    shutil.copytree(demo_repository, tmp_path / "models")
    return tmp_path / "models"


def _flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 0x10
    path.write_bytes(content)


def _sum_again(folder: Path) -> None:
    """Make SHA256SUMS fit what is there, as somebody would who means it."""
    from resonnx_server.runtime.model_files.manifest import sha256sums

    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "SHA256SUMS"}
    (folder / "SHA256SUMS").write_bytes(sha256sums(files))


def _break_weights(folder: Path) -> None:
    """Change a weight so that the file is valid, correctly summed, and wrong."""
    from onnx import numpy_helper

    model = onnx.load(folder / "model.onnx")
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(weight).copy()
    values[0] += 1
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, folder / "model.onnx")
    _sum_again(folder)


def _edit_manifest(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    _sum_again(folder)


def _allow_anything(folder: Path) -> None:
    """Wrong weights, and bounds that would let them pass."""
    bounds = json.loads((folder / "manifest.json").read_text())["precisions"]
    _break_weights(folder)
    _edit_manifest(folder, precisions=[{**bound, "max_deviation": "Infinity"} for bound in bounds])


DAMAGES = {
    "flipped bit": (lambda d: _flip(d / "model.onnx", 5000), "'model.onnx' is damaged"),
    "truncated": (lambda d: os.truncate(d / "model.onnx", 1000), "'model.onnx' is damaged"),
    "flipped golden": (lambda d: _flip(d / "golden.npz", 300), "'golden.npz' is damaged"),
    "missing file": (lambda d: (d / "model.onnx").unlink(), "'model.onnx' is listed"),
    "missing sums": (lambda d: (d / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
    "foreign file": (lambda d: (d / "extra.bin").write_bytes(b"x"), "'extra.bin' is not listed"),
    "malformed sums": (lambda d: (d / "SHA256SUMS").write_text("x"), "malformed"),
    "no golden": (lambda d: ((d / "golden.npz").unlink(), _sum_again(d)), "golden.npz is missing"),
    "wrong weights": (_break_weights, "disagree with the golden examples"),
    "not onnx": (lambda d: ((d / "model.onnx").write_bytes(b"junk"), _sum_again(d)), "cannot load the graph"),
    "manifest not json": (lambda d: ((d / "manifest.json").write_text("{"), _sum_again(d)), "does not parse"),
    "manifest of another schema": (lambda d: _edit_manifest(d, schema_version=99), "schema_version 99 is not 1"),
    "manifest of tomorrow": (lambda d: _edit_manifest(d, needs_server="99.0.0", new={}), "needs resonnx-server 99.0.0"),
    "other labels": (lambda d: _edit_manifest(d, classifier={"labels": ["a"], "feature_size": 4}), "expected [N, 1]"),
    "bounds that allow anything": (_allow_anything, "precisions.max_deviation inf of model.onnx in PRECISION_FP32"),
    "no reference": (lambda d: ((d / "drift.npz").unlink(), _sum_again(d)), "drift.npz is missing, and the manifest"),
    "golden of nothing": (lambda d: ((d / "golden.npz").write_bytes(b"PK"), _sum_again(d)), "not readable as golden"),
}


def test_damaged_models_are_refused_and_the_others_serve(start_server, demo_repository: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    shutil.copytree(demo_repository / "scenes", repository / "scenes")
    names = {damage.replace(" ", "-"): damage for damage in DAMAGES}
    for name, damage in names.items():
        shutil.copytree(demo_repository / "digits", repository / name)
        harm, _ = DAMAGES[damage]
        harm(repository / name / "1")
    with start_server(repository, "--log-level", "error") as server:
        status, text = server.get("/readyz")
        assert status == 200
        assert "serving scenes" in text
        lines = text.splitlines()
        with grpc.insecure_channel(server.grpc) as channel:
            vision = vision_pb2_grpc.VisionStub(channel)
            models = {m.name: m for m in vision.ListModels(vision_pb2.ListModelsRequest(), timeout=10).models}
            assert models["scenes"].state == vision_pb2.MODEL_STATE_READY
            assert models.keys() == {"scenes", *names}
            for name, damage in names.items():
                _, reason = DAMAGES[damage]
                assert any(line.startswith(f"refused {name} ") and reason in line for line in lines), damage
                assert models[name].state == vision_pb2.MODEL_STATE_REFUSED
                assert reason in models[name].reason
                with pytest.raises(grpc.RpcError) as refused:
                    vision.Classify(vision_pb2.ClassifyRequest(model=name), timeout=10)
                assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
                assert str(repository) not in refused.value.details()
        assert server.stop() == 0


def test_a_version_number_that_is_none_is_ignored(start_server, repository: Path) -> None:
    (repository / "digits" / ("9" * 30)).mkdir()
    (repository / "odd" / ("9" * 20)).mkdir(parents=True)
    with start_server(repository) as server, grpc.insecure_channel(server.grpc) as channel:
        vision = vision_pb2_grpc.VisionStub(channel)
        models = vision.ListModels(vision_pb2.ListModelsRequest(), timeout=10).models
        assert [(m.name, m.version) for m in models] == [("digits", 1), ("odd", 0), ("scenes", 1)]


def test_strict_is_not_ready_while_a_model_is_refused(start_server, repository: Path) -> None:
    (repository / "empty").mkdir()
    with start_server(repository, "--strict") as server:
        status, text = server.get("/readyz")
        assert status == 503
        assert "refused empty version 0: the model's folder has no version folder" in text
        assert server.metric("resonnx_model_ready", model="empty") == 0
        with grpc.insecure_channel(server.grpc) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            for service in ("", "resonnx.v1.Vision", "resonnx.v1.Vision/empty"):
                answer = check(health_pb2.HealthCheckRequest(service=service), timeout=10)
                assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
            answer = check(health_pb2.HealthCheckRequest(service="resonnx.v1.Vision/digits"), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


@contextmanager
def _on_one_core() -> Iterator[None]:
    """What is started meanwhile runs on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def test_settings_of_the_file_and_tables_that_are_kept(start_server, digits_alone: Path, tmp_path: Path) -> None:
    """On one core, by one provider: nothing is chosen by what a start measures, so all starts have the same tables."""
    config = tmp_path / "server.toml"
    config.write_text(
        '[server]\nlog_level = "error"\nprovider = "cpu"\nstrict = true\n[models.digits]\nmax_batch_size = 4\n'
    )
    cache = tmp_path / "cache"
    environment = {"RESONNX_CONFIG": str(config), "RESONNX_CACHE_DIR": str(cache)}
    known: list[Path] = []
    for _ in range(2):
        with _on_one_core(), start_server(digits_alone, environment=environment) as server:
            with grpc.insecure_channel(server.grpc) as channel:
                request = vision_pb2.GetModelRequest(model="digits")
                digits = vision_pb2_grpc.VisionStub(channel).GetModel(request, timeout=10)
            assert [latency.batch_size for latency in digits.sessions[0].latencies] == [1, 2, 3, 4]
            tables = sorted(cache.iterdir())
            known = known or tables
            assert tables == known != []
            assert _said(server.log.read_text()) == [], "only errors are logged"


def test_highest_version_serves(start_server, repository: Path) -> None:
    shutil.copytree(repository / "digits" / "1", repository / "digits" / "12")
    (repository / "digits" / "notes").mkdir()
    with start_server(repository) as server, grpc.insecure_channel(server.grpc) as channel:
        request = vision_pb2.GetModelRequest(model="digits")
        digits = vision_pb2_grpc.VisionStub(channel).GetModel(request, timeout=10)
        assert digits.summary.version == 12
