"""`make run` reports a taken port before the slow steps, with the variable that selects another."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

_QUICKSTART = Path(__file__).parents[2] / "deploy/quickstart.py"


def _quickstart(*flags: str) -> "subprocess.CompletedProcess[str]":
    """Run it as make does; any step after the check of the ports prints to stdout."""
    return subprocess.run([sys.executable, _QUICKSTART, *flags], capture_output=True, text=True, timeout=50)


@pytest.mark.parametrize(("flag", "variable"), [("--port", "PORT"), ("--http-port", "HTTP_PORT")])
def test_a_taken_port_names_the_variable(flag: str, variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as freed:
        port, free = taken.getsockname()[1], freed.getsockname()[1]
        freed.close()
        other = "--http-port" if flag == "--port" else "--port"
        done = _quickstart(flag, str(port), other, str(free))
    assert done.returncode == 1
    assert done.stderr.startswith(f"make run: port {port} is taken: choose another, make run {variable}=")
    suggested = int(done.stderr.rpartition("=")[2])
    assert 0 < suggested <= 65535
    assert abs(suggested - port) > 1, "the next one is the other's by default"
    assert done.stdout == ""


def test_one_port_for_both_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as freed:
        port = freed.getsockname()[1]
    done = _quickstart("--port", str(port), "--http-port", str(port))
    assert done.returncode == 1
    assert done.stderr.startswith(f"make run: PORT and HTTP_PORT are both {port}: choose another, make run PORT=")
    assert done.stdout == ""


@pytest.mark.parametrize("port", ["65536", "-1"])
def test_what_is_no_port_is_told(port: str) -> None:
    done = _quickstart("--port", "0", f"--http-port={port}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"make run: HTTP_PORT={port} is no port: choose one of 1 to 65535\n"
