"""The demonstration models are served with both ONNX Runtimes for CPUs, in environments made from the images' lists."""

import hashlib
import json
import os
import re
import subprocess
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock
from resonnx import Client

_ROOT = Path(__file__).parents[2]
_KEPT = _ROOT / ".make/runtimes"


def _interpreter(*lists: str) -> Path:
    """Return the interpreter of an environment with the server, the packages of these lists, and no other."""
    files = [_ROOT / f"deploy/requirements/{name}.txt" for name in lists]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    folder = _KEPT / "-".join(lists)
    folder.parent.mkdir(parents=True, exist_ok=True)
    installed = folder / "installed"
    with FileLock(folder.with_suffix(".lock")):
        if not installed.exists() or installed.read_text() != digest:
            venv.create(folder, clear=True, with_pip=True)
            command = [folder / "bin/python", "-m", "pip", "install", "-q", "--require-hashes"]
            subprocess.run([*command, *(f"-r{file}" for file in files)], check=True, timeout=500)
            ours = [argument for room in ("proto", "server") for argument in ("-e", str(_ROOT / room))]
            subprocess.run([*command[:-1], "--no-deps", *ours], check=True, timeout=200)
            installed.write_text(digest)
    return folder / "bin/python"


@contextmanager
def _server(python: Path, repository: Path, provider: str, folder: Path) -> Iterator[str]:
    """Start a server with its cache and log in a folder, and yield its gRPC address."""
    command = [python, "-m", "resonnx_server", "--repository", repository, "--provider", provider]
    command += ["--port", "0", "--http-port", "0", "--cache-dir", folder / "cache", "--strict"]
    pipes = {"stdout": subprocess.PIPE, "stderr": (folder / "log").open("wb")}
    with pipes["stderr"], subprocess.Popen(command, env={**os.environ, "PYTHONPATH": ""}, text=True, **pipes) as server:
        try:
            assert server.stdout is not None
            ready = re.match(r"resonnx-server ready grpc=(\S+)", server.stdout.readline())
            assert ready is not None, "a demonstration model was refused"
            yield ready[1]
        finally:
            server.terminate()
    assert server.returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("runtime", "provider"), [("cpu", "cpu"), ("openvino", "cpu"), ("openvino", "openvino")])
def test_demos_are_served(
    runtime: str,
    provider: str,
    demo_repository: Path,
    samples: Path,
    truth: dict[str, dict[str, str]],
    tmp_path: Path,
) -> None:
    python = _interpreter("server", runtime)
    right = []
    with _server(python, demo_repository, provider, tmp_path) as address, Client(address, timeout_s=60) as client:
        for name, true in truth.items():
            if true["model"] == "digits":
                right.append(client.classify(samples / name, "digits").predictions[0].label == true["label"])
            else:
                right.append(client.caption(samples / name, "scenes").captions[0].text == true["caption"])
    assert {entry["model"] for entry in truth.values()} == {"digits", "scenes"}
    assert sum(right) >= 0.9 * len(right), right


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_openvino_is_raced_and_judged(demo_repository: Path, tmp_path: Path) -> None:
    python = _interpreter("server", "openvino")
    with _server(python, demo_repository, "auto", tmp_path) as address, Client(address, timeout_s=60) as client:
        sessions = [session for model in client.models() for session in client.model(model.name).sessions]
        used = {f"{session.provider}/{session.precision}" for session in sessions}
    candidates: dict[str, set[str]] = {}
    for line in map(json.loads, (tmp_path / "log").read_text().splitlines()):
        # A captioner's encoder and decoder are raced as a pair.
        candidates.setdefault(line["message"], set()).update(line.get("candidate", "").split(" + "))
    raced = candidates["measured a provider"]
    assert {"OpenVINOExecutionProvider/fp32", "CPUExecutionProvider/fp32"} <= raced
    assert used == candidates["outputs agree with the golden examples"]
    assert used <= raced


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_without_a_runtime_the_server_says_what_to_type(tmp_path: Path) -> None:
    command = [_interpreter("server"), "-m", "resonnx_server", "--repository", tmp_path]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "resonnx-server: ONNX Runtime is not installed: pip install 'onnxruntime>=1.31' (for "
    )
