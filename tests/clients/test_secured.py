"""Other projects' clients before a server with TLS on all ports, certificates of clients, and keys."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..attacks.guarded import Guarded, guarded
from ..certificates import Authority
from .environments import HERE, grpcurl_program, interpreter, node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder, authority = tmp_path_factory.mktemp("secured"), Authority()
    authority.write(folder, "ca")
    chain, key = authority.issue("server").write(folder, "server")
    authority.issue("client").write(folder, "client")
    flags = ("--tls-certificate", str(chain), "--tls-key", str(key), "--tls-client-ca", str(folder / "ca.pem"))
    flags += ("--admin-on-main",)
    with guarded(start_server, folder, "core", *flags) as running:
        yield running


@pytest.fixture
def told(server: Guarded) -> dict[str, str]:
    """Addresses, files and the key."""
    files = {"ca": "ca.pem", "private": "client.key", "certificate": "client.pem"}
    paths = {name: str(server.folder / file) for name, file in files.items()}
    return {"grpc": server.server.grpc, "http": server.server.http, "key": "admin", **paths}


def _run(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_tritonclient(told: dict[str, str]) -> None:
    program = HERE / "programs/triton_secured.py"
    done = subprocess.run(
        [interpreter("triton"), program, json.dumps(told)],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": sys.exec_prefix},
    )
    assert done.stdout.strip().endswith("done"), done.stdout[-2000:] + done.stderr[-6000:]


def test_perf_analyzer_over_http(told: dict[str, str], perf_analyzer: list[str]) -> None:
    command = [*perf_analyzer, "-i", "http", "-u", f"https://{told['http']}", "-m", "doubling", "-b", "1", "-p", "500"]
    command += ["-r", "10", "-s", "999", "--ssl-https-ca-certificates-file", told["ca"]]
    done = _run(*command, "-H", f"authorization: Bearer {told['key']}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Throughput" in done.stdout
    refused = _run(*command)
    assert refused.returncode != 0
    assert "key" in refused.stdout + refused.stderr


def test_grpcurl(told: dict[str, str]) -> None:
    files = ["-cacert", told["ca"], "-cert", told["certificate"], "-key", told["private"]]
    method = "inference.GRPCInferenceService/ServerMetadata"
    key = ["-H", f"authorization: Bearer {told['key']}"]
    done = _run(grpcurl_program(), *files, *key, told["grpc"], method)
    assert json.loads(done.stdout)["name"] == "resonnx", done.stderr
    refused = _run(grpcurl_program(), *files, told["grpc"], method)
    assert refused.returncode != 0
    assert "key" in refused.stderr


def test_curl(told: dict[str, str]) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    command = ["curl", "-sS", "--fail-with-body", "-m", "30", "--cacert", told["ca"], f"https://{told['http']}/v2"]
    command += ["--cert", told["certificate"], "--key", told["private"]]
    done = _run(*command, "-H", f"authorization: Bearer {told['key']}")
    assert json.loads(done.stdout)["name"] == "resonnx", done.stderr
    assert "key" in _run(*command).stdout


def test_node(told: dict[str, str]) -> None:
    script = shutil.copy(HERE / "programs/node/secured.js", node() / "secured.js")
    done = _run("node", script, HERE.parents[1] / "proto", json.dumps(told))
    assert done.stdout.strip() == "done", done.stdout + done.stderr
