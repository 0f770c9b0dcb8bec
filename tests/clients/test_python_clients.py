"""Other projects' Python clients, each a program in an environment of its own."""

import json
import subprocess
import sys

import pytest

from .environments import HERE, interpreter
from .served import Tapped

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# By client: its environment and program.
_PROGRAMS = {
    "triton_grpc": ("triton", "triton_grpc.py"),
    "triton_aio": ("triton", "triton_aio.py"),
    "triton_http": ("triton", "triton_http.py"),
    "kserve": ("kserve", "kserve_sdk.py"),
    "mlserver": ("mlserver", "mlserver_types.py"),
    "pytriton": ("pytriton", "pytriton_model.py"),
}


@pytest.mark.parametrize("client", _PROGRAMS, indirect=True)
def test_client(client: str, tapped: Tapped) -> None:
    environment, program = _PROGRAMS[client]
    command = [interpreter(environment), HERE / "programs" / program, json.dumps(tapped.told)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={"PATH": sys.exec_prefix})
    assert done.stdout.strip().endswith("done"), done.stdout[-2000:] + done.stderr[-6000:]
