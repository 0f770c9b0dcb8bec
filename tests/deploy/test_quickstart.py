"""`make run` finds a taken port before anything that takes long, and names the variable that chooses another."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

_QUICKSTART = Path(__file__).parents[2] / "deploy/quickstart.py"


@pytest.mark.parametrize(("flag", "variable"), [("--port", "PORT"), ("--http-port", "HTTP_PORT")])
def test_a_taken_port_names_the_variable(flag: str, variable: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as freed:
        port, free = taken.getsockname()[1], freed.getsockname()[1]
        freed.close()
        other = "--http-port" if flag == "--port" else "--port"
        done = subprocess.run(
            # Without the commands beside it, which would say that it went further.
            [sys.executable, _QUICKSTART, flag, str(port), other, str(free)],
            capture_output=True,
            text=True,
            timeout=50,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(f"make run: port {port} is taken: choose another, make run {variable}=")
    suggested = int(done.stderr.rpartition("=")[2])
    assert 0 < suggested <= 65535
    assert abs(suggested - port) > 1, "the next one is the other's by default"
    assert done.stdout == ""
