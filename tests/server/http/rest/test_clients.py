"""tritonclient's HTTP client and KServe's SDK, each in an environment of its own, and requests as MLServer's client."""

import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from .asking_http import infer_json

_ROOT = Path(__file__).resolve().parents[4]
_PROGRAM = Path(__file__).with_name("their_clients.py")
_NEEDS = {"triton": "tritonclient[http]==2.73.0", "kserve": "kserve==0.21.0"}


def _environment(name: str) -> Path:
    """Return the interpreter of a client's environment, which is made once."""
    folder = _ROOT / ".make/clients" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = folder / _NEEDS[name]
    with FileLock(folder.with_suffix(".lock")):
        if not done.exists():
            venv.create(folder, clear=True, with_pip=True)
            command = [folder / "bin/python", "-m", "pip", "install", "-q", _NEEDS[name]]
            subprocess.run(command, check=True, timeout=500)
            done.touch()
    return folder / "bin/python"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", _NEEDS)
def test_their_clients_work(demo_server, tmp_path: Path, name: str) -> None:
    pixels = tmp_path / "pixels.npy"
    np.save(pixels, np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    command = [_environment(name), _PROGRAM, name, demo_server.http, pixels]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env={"PATH": sys.exec_prefix})
    assert done.stdout.strip() == "done", done.stderr


def test_requests_as_mlserver_writes_them(demo_server) -> None:
    """With content types, and null where a field has no value."""
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    given = {"name": "image", "shape": [1, 32, 32, 3], "datatype": "UINT8", "parameters": {"content_type": "np"}}
    nothing = {"id": None, "parameters": {"content_type": "np", "headers": None}, "outputs": None}
    answer = infer_json(demo_server.http, "digits", {**given, "data": pixels.ravel().tolist()}, **nothing)
    assert answer.status == 200, answer.json
    assert answer.arrays()["logits"].shape == (1, 10)
