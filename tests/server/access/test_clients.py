"""Our commands and Triton's clients before a server with keys and mutual TLS."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import aio as triton_aio
from tritonclient.utils import InferenceServerException

from ...attacks.guarded import Guarded, guarded
from ...certificates import Authority

HEADERS = {"authorization": "Bearer admin"}
X = np.arange(3, dtype=np.float32)[np.newaxis]


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder, authority = tmp_path_factory.mktemp("clients"), Authority()
    authority.write(folder, "ca")
    chain, key = authority.issue("server").write(folder, "server")
    authority.issue("client").write(folder, "client")
    flags = ("--tls-certificate", str(chain), "--tls-key", str(key), "--tls-client-ca", str(folder / "ca.pem"))
    with guarded(start_server, folder, "core", *flags) as running:
        yield running


@pytest.fixture(scope="module")
def tls(server: Guarded) -> dict[str, str]:
    """tritonclient's options."""
    files = {"root_certificates": "ca.pem", "private_key": "client.key", "certificate_chain": "client.pem"}
    return {option: str(server.folder / name) for option, name in files.items()}


def _input(kind: type) -> triton.InferInput:
    given = kind("x", X.shape, "FP32")
    given.set_data_from_numpy(X)
    return given


def test_tritonclient(server: Guarded, tls: dict[str, str]) -> None:
    with triton.InferenceServerClient(server.server.grpc, ssl=True, **tls) as client:
        answer = client.infer("doubling", [_input(triton.InferInput)], headers=HEADERS)
        np.testing.assert_array_equal(answer.as_numpy("y"), 2 * X)
        assert client.is_server_ready(headers=HEADERS)
        assert client.get_model_metadata("doubling", headers=HEADERS).name == "doubling"
        with pytest.raises(InferenceServerException, match="needs a key") as refused:
            client.infer("doubling", [_input(triton.InferInput)])
        assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
        answers: list[object] = []
        client.start_stream(
            lambda result, error: answers.append(error or result.as_numpy("y").tolist()), headers=HEADERS
        )
        client.async_stream_infer("doubling", [_input(triton.InferInput)])
        client.stop_stream()
        assert answers == [(2 * X).tolist()]


async def test_tritonclient_on_asyncio(server: Guarded, tls: dict[str, str]) -> None:
    async with triton_aio.InferenceServerClient(server.server.grpc, ssl=True, **tls) as client:
        answer = await client.infer("doubling", [_input(triton.InferInput)], headers=HEADERS)
        np.testing.assert_array_equal(answer.as_numpy("y"), 2 * X)


def _resonnx(server: Guarded, *arguments: str) -> subprocess.CompletedProcess[str]:
    folder = server.folder
    (folder / "key").write_text("admin\n")
    files = ["--ca", folder / "ca.pem", "--cert", folder / "client.pem", "--client-key", folder / "client.key"]
    files += ["--key-file", folder / "key"]
    command = [sys.executable, "-m", "resonnx", *arguments, "--server", server.server.grpc, *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_commands(server: Guarded, tmp_path: Path) -> None:
    listed = _resonnx(server, "models")
    assert listed.returncode == 0, listed.stderr
    assert "doubling" in listed.stdout
    results = tmp_path / "results.json"
    for stream in ([], ["--stream"]):
        short = ["--input", "tensor", "--concurrency", "2", "--duration", "0.2", "--warmup", "0", *stream]
        done = _resonnx(server, "bench", "--model", "doubling", *short, "--json", str(results))
        assert done.returncode == 0, done.stderr
        assert json.loads(results.read_text())["runs"][0]["errors"] == {}


@pytest.mark.slow
def test_perf_analyzer(server: Guarded, perf_analyzer: list[str]) -> None:
    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [*perf_analyzer, "-i", "grpc", "-u", server.server.grpc, "-m", "doubling", "-b", "1", "-p", "300"]
        command += ["-r", "3", "-s", "999", "--ssl-grpc-use-ssl"]
        folder = server.folder
        command += ["--ssl-grpc-root-certifications-file", str(folder / "ca.pem")]
        command += ["--ssl-grpc-private-key-file", str(folder / "client.key")]
        command += ["--ssl-grpc-certificate-chain-file", str(folder / "client.pem"), *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    done = run("-H", "authorization: Bearer admin")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Throughput" in done.stdout
    refused = run()
    assert refused.returncode != 0
    assert "needs a key" in refused.stdout + refused.stderr
