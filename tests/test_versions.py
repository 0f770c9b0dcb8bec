"""One version: of all packages, of all distributions and of what they ask of each other, told by all commands."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import resonnx
import resonnx_export
import resonnx_proto
import resonnx_server

_ROOT = Path(__file__).parents[1]
_VERSION = resonnx_proto.__version__
_COMMANDS = {
    "resonnx-server": "from resonnx_server.__main__ import main; main()",
    "resonnx-export": "from resonnx_export.cli import main; main()",
    "resonnx": "from resonnx.cli import main; main()",
}


@pytest.mark.parametrize("package", [resonnx, resonnx_export, resonnx_server])
def test_packages_run_as_their_commands(package: ModuleType) -> None:
    command = [sys.executable, "-m", package.__name__, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{package.__name__.replace('_', '-')} {_VERSION}\n"


def test_packages_have_one_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", _VERSION)
    assert {module.__version__ for module in (resonnx, resonnx_export, resonnx_server)} == {_VERSION}


@pytest.mark.parametrize("room", ["server", "export", "client"])
def test_distributions_have_it_and_ask_for_it(room: str) -> None:
    project = tomllib.loads((_ROOT / room / "pyproject.toml").read_text())["project"]
    assert project["version"] == _VERSION
    ours = [dependency for dependency in project["dependencies"] if dependency.startswith("resonnx")]
    assert f"resonnx-proto=={_VERSION}" in ours
    assert all(dependency.endswith(f"=={_VERSION}") for dependency in ours)


def test_the_distribution_of_messages_takes_it_from_the_package() -> None:
    content = tomllib.loads((_ROOT / "proto/pyproject.toml").read_text())
    assert content["project"]["dynamic"] == ["version"]
    assert content["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "resonnx_proto.__version__"}


@pytest.mark.parametrize("command", _COMMANDS)
@pytest.mark.parametrize("flag", ["--version", "-h", "--help"])
def test_commands_tell_it_and_help(command: str, flag: str) -> None:
    done = subprocess.run([sys.executable, "-c", _COMMANDS[command], flag], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    if flag == "--version":
        assert done.stdout == f"{command} {_VERSION}\n"
    else:
        assert done.stdout.lstrip().startswith(f"Usage: {command} ")
        assert "--version" in done.stdout
        assert "-h, --help" in done.stdout
