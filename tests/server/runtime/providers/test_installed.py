"""Exactly one distribution of ONNX Runtime; without one, or with two, the commands say what to type."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

import pytest
from resonnx_server.runtime.providers.installed import (
    REQUIREMENTS,
    RuntimeFault,
    check_runtime,
    runtime_distribution,
)

_ROOT = Path(__file__).parents[4]
_EXTRAS = ("cpu", "gpu", "openvino")


def _install(folder: Path, *names: str) -> str:
    """Write the metadata of distributions, and the module that they share; return the folder."""
    (folder / "onnxruntime").mkdir(exist_ok=True)
    (folder / "onnxruntime/__init__.py").touch()
    for name in names:
        metadata = folder / f"{name.replace('-', '_')}-1.99.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.99\n")
    return str(folder)


@pytest.mark.parametrize("name", [*REQUIREMENTS, "onnxruntime-of-your-own"])
def test_one_is_right(tmp_path: Path, name: str) -> None:
    check_runtime([_install(tmp_path, name)])


def test_none_is_a_fault_that_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFault) as caught:
        check_runtime([str(tmp_path)])
    assert str(caught.value) == (
        "ONNX Runtime is not installed: pip install 'onnxruntime>=1.31' (for NVIDIA GPUs "
        "'onnxruntime-gpu[cuda,cudnn]>=1.31', for OpenVINO 'onnxruntime-openvino>=1.24,<1.25')"
    )


@pytest.mark.parametrize("names", [*combinations(REQUIREMENTS, 2)])
def test_two_are_a_fault_that_says_what_to_type(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(RuntimeFault) as caught:
        check_runtime([_install(tmp_path, *names)])
    assert f"{names[0]} and {names[1]} are installed together" in str(caught.value)
    assert f"pip uninstall --yes {names[0]} {names[1]}, then one of them: pip install 'onnxruntime" in str(caught.value)


@pytest.mark.parametrize("room", ["server", "export"])
def test_both_distributions_have_an_extra_for_each_and_require_none(room: str) -> None:
    project = tomllib.loads((_ROOT / room / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    assert [extras[extra] for extra in _EXTRAS] == [[requirement] for requirement in REQUIREMENTS.values()]
    assert project["tool"]["uv"]["conflicts"] == [[{"extra": extra} for extra in _EXTRAS]]
    assert "onnxruntime" not in (_ROOT / room / "setup.py").read_text()


def test_the_installed_one_is_named() -> None:
    name, installed = runtime_distribution()
    assert name in REQUIREMENTS
    assert installed == version(name)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["resonnx_server", "--repository", "."], 1),
        (["resonnx_server", "check", "--repository", "."], 1),
        (["resonnx_export", "demo", "--repository", "out"], 2),
    ],
)
def test_commands_stop_when_more_are_installed(tmp_path: Path, command: list[str], status: int) -> None:
    _install(tmp_path, *REQUIREMENTS)
    path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    assert "onnxruntime and onnxruntime-gpu and onnxruntime-openvino are installed together" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
