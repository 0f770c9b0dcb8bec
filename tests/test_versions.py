"""One version number for all packages, distributions, their requirements of each other and all commands."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PathDistribution
from pathlib import Path
from types import ModuleType

import pytest
import resonnx
import resonnx_export
import resonnx_proto
import resonnx_server

_ROOT = Path(__file__).parents[1]
_VERSION = resonnx_proto.__version__
_ROOMS = ("proto", "server", "export", "client")
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


@pytest.mark.parametrize("room", _ROOMS)
def test_distributions_take_it_from_one_file(room: str) -> None:
    assert (_ROOT / room / "VERSION").resolve() == _ROOT / "VERSION"
    content = tomllib.loads((_ROOT / room / "pyproject.toml").read_text())
    assert "version" in content["project"]["dynamic"]
    assert content["tool"]["setuptools"]["dynamic"]["version"] == {"file": "VERSION"}
    assert content["project"]["license"] == "Apache-2.0"


def test_a_new_version_needs_one_change(tmp_path: Path) -> None:
    """The metadata that pip reads, of each distribution, after VERSION alone has changed."""
    for room in _ROOMS:
        ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
        shutil.copytree(_ROOT / room, tmp_path / room, symlinks=True, ignore=ignored)
    for file in ("LICENSE", "THIRD-PARTY-NOTICES"):
        shutil.copy(_ROOT / file, tmp_path)
    (tmp_path / "VERSION").write_text("9.8.7\n")
    required = {}
    for room in _ROOMS:
        code = "import sys; from setuptools import build_meta; build_meta.prepare_metadata_for_build_wheel(sys.argv[1])"
        target = tmp_path / "metadata" / room
        target.mkdir(parents=True)
        command = [sys.executable, "-c", code, target]
        subprocess.run(command, cwd=tmp_path / room, check=True, capture_output=True, timeout=60)
        (metadata,) = (PathDistribution(path) for path in target.glob("*.dist-info"))
        assert metadata.version == "9.8.7"
        assert metadata.metadata["License-Expression"] == "Apache-2.0"
        assert "LICENSE" in metadata.metadata.get_all("License-File", [])
        required[metadata.name] = [each for each in metadata.requires or [] if each.startswith("resonnx")]
    assert required == {
        "resonnx-proto": [],
        "resonnx-server": ["resonnx-proto==9.8.7"],
        "resonnx-export": ["resonnx-proto==9.8.7", "resonnx-server==9.8.7"],
        "resonnx": ["resonnx-proto==9.8.7"],
    }


@pytest.mark.parametrize("command", _COMMANDS)
@pytest.mark.parametrize("flag", ["--version", pytest.param("-h", marks=pytest.mark.slow), "--help"])
def test_commands_tell_it_and_help(command: str, flag: str) -> None:
    done = subprocess.run([sys.executable, "-c", _COMMANDS[command], flag], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    if flag == "--version":
        assert done.stdout == f"{command} {_VERSION}\n"
    else:
        assert done.stdout.lstrip().startswith(f"Usage: {command} ")
        assert "--version" in done.stdout
        assert "-h, --help" in done.stdout
