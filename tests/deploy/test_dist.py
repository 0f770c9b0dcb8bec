"""`make dist`: distributions with all that belongs to them, which serve the demo models without the tree."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from resonnx_proto import __version__

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

_ROOT = Path(__file__).parents[2]
_STATIC = _ROOT / "server/resonnx_server/http/page/static"
_NAMES = ("resonnx_proto", "resonnx_server", "resonnx_export", "resonnx")
# Of what is no module, in the wheel of each.
_PARTS = {
    "resonnx_proto": {"resonnx_proto/protos/resonnx/v1/vision.proto", "resonnx_proto/v1/vision_pb2.pyi"},
    "resonnx_server": {"resonnx_server/py.typed"}
    | {f"resonnx_server/http/page/static/{path.name}" for path in _STATIC.iterdir()},
    "resonnx_export": {
        "resonnx_export/py.typed",
        "resonnx_export/demo/weights/digits.safetensors",
        "resonnx_export/report/templates/report.html",
    },
    "resonnx": {"resonnx/py.typed"},
}


@pytest.fixture(scope="module")
def dist() -> Path:
    subprocess.run(["make", "dist", f"PYTHON={sys.executable}"], cwd=_ROOT, check=True, timeout=600)
    return _ROOT / "dist"


@pytest.mark.parametrize("name", _NAMES)
def test_wheels_and_sdists_are_complete(name: str, dist: Path) -> None:
    with zipfile.ZipFile(dist / f"{name}-{__version__}-py3-none-any.whl") as wheel:
        files = set(wheel.namelist())
        metadata = wheel.read(f"{name}-{__version__}.dist-info/METADATA").decode()
    assert _PARTS[name] | {f"{name}-{__version__}.dist-info/licenses/LICENSE"} <= files
    assert not [file for file in files if file.startswith("tests") or file.endswith(".pyc")]
    assert "License-Expression: Apache-2.0" in metadata
    assert "\n# resonnx\n" in metadata
    with tarfile.open(dist / f"{name}-{__version__}.tar.gz") as sdist:
        members = {member.name.partition("/")[2]: member for member in sdist}
    assert {"LICENSE", "VERSION", "pyproject.toml"} <= members.keys()
    assert not [name for name, member in members.items() if member.issym()], "a link leads out of the archive"


def test_the_same_commit_gives_the_same_wheels(dist: Path) -> None:
    before = {path.name: path.read_bytes() for path in dist.glob("*.whl")}
    subprocess.run(["make", "dist", f"PYTHON={sys.executable}"], cwd=_ROOT, check=True, timeout=600)
    assert before == {path.name: path.read_bytes() for path in dist.glob("*.whl")}


def test_wheels_serve_the_demo_models_in_an_empty_environment(dist: Path, tmp_path: Path) -> None:
    """`make run ONCE=1` with nothing of the tree but its script."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=120)
    wheels = {name: str(dist / f"{name}-{__version__}-py3-none-any.whl") for name in _NAMES}
    wheels["resonnx_server"] += "[cpu]"
    wheels["resonnx_export"] += "[cpu,demo]"
    python = environment / "bin/python"
    command = [python, "-m", "pip", "install", "--quiet", "-c", _ROOT / "constraints.txt", *wheels.values()]
    subprocess.run(command, check=True, timeout=900)
    (tmp_path / "deploy").mkdir()
    shutil.copy(_ROOT / "deploy/quickstart.py", tmp_path / "deploy")
    done = subprocess.run(
        [python, "-I", tmp_path / "deploy/quickstart.py", "--once"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models/digits/1/model.onnx").is_file()
    for model in ("digits", "scenes", "gestures"):
        assert model in done.stdout
    where = subprocess.run(
        [python, "-I", "-c", "import resonnx_server; print(resonnx_server.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert Path(where.stdout.strip()).is_relative_to(environment)
