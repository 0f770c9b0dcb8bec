"""A gRPC port that takes no connections while models load, so that proxies send their calls to other servers."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from resonnx_server.rpc.reserved_port import ReservedPort

from ...attacks.guarded import eventually
from .. import bare_graphs


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 10).close()
    except ConnectionRefusedError:
        return True
    return False


def test_connections_are_refused_until_all_models_are_loaded(tmp_path: Path) -> None:
    """The HTTP port answers from the start; a port that another server listens on is noticed then."""
    for name, content in (("good", bare_graphs.doubling()), ("loops", bare_graphs.loop())):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1/model.onnx").write_bytes(content)
    with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as http:
        ports = [each.getsockname()[1] for each in (free, http)]
    command = [sys.executable, "-m", "resonnx_server", "--repository", str(tmp_path), "--port", str(ports[0])]
    flags = ["--http-port", str(ports[1]), "--listen-when", "loaded", "--load-timeout-s", "3", "--provider", "cpu"]
    with subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            eventually(lambda: not _refuses(ports[1]))
            assert _refuses(ports[0])
            assert process.stdout.readline().startswith(f"resonnx-server ready grpc=127.0.0.1:{ports[0]} ")
            assert not _refuses(ports[0])
            other = [*command, "--http-port", "0", "--listen-when", "loaded"]
            failed = subprocess.run(other, capture_output=True, text=True, timeout=60, check=False)
        finally:
            process.terminate()
        assert process.wait(30) == 0
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith(f"resonnx-server: cannot listen on 127.0.0.1:{ports[0]} (gRPC)")


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
async def test_a_reserved_port_refuses_and_can_be_listened_on_by_its_server(host: str) -> None:
    with await ReservedPort.of(host, 0) as reserved:
        assert _refuses(reserved.port)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, reserved.port), family=family, dualstack_ipv6=":" in host):
            assert not _refuses(reserved.port)
            with pytest.raises(OSError, match="in use"):
                await ReservedPort.of(host, reserved.port)
