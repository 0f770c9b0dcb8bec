"""deploy/prune.py removes tests, headers and copies of libraries, and nothing that packages import."""

import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).parents[2] / "deploy/prune.py"
_KEPT = (
    "numpy/testing/__init__.py",
    "numpy/_core/multiarray.py",
    "torch/lib/libtorch.so",
    "torch/bin/torch_shm_manager",
    "jinja2/tests.py",
    "tests-1.0.dist-info/METADATA",
    "ov/libopenvino.so.2025.4.1",
)
_REMOVED = (
    "numpy/tests/test_all.py",
    "numpy/_core/tests/data/tests/deep.npy",
    "onnx/backend/test/data/model.onnx",
    "torch/include/ATen/test/test.h",
    "torch/share/cmake/Torch.cmake",
    "torch/bin/test_api",
    "torch/test/cpp.py",
    "numpy/_core/lib/libnpymath.a",
)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    folder = tmp_path / "lib/python3.11/site-packages"
    for name in (*_KEPT, *_REMOVED, "ov/libopenvino.so", "ov/libother.so"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("the same" if "libopenvino" in name else name)
    return folder


def test_only_what_is_not_needed_goes(tmp_path: Path, packages: Path) -> None:
    done = subprocess.run([sys.executable, _SCRIPT, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [name for name in _KEPT if not (packages / name).exists()] == []
    assert [name for name in _REMOVED if (packages / name).exists()] == []


def test_copies_of_a_library_become_links(tmp_path: Path, packages: Path) -> None:
    subprocess.run([sys.executable, _SCRIPT, tmp_path], check=True, capture_output=True)
    link = packages / "ov/libopenvino.so"
    assert link.is_symlink()
    assert link.resolve() == packages / "ov/libopenvino.so.2025.4.1"
    assert link.read_text() == "the same"
    assert not (packages / "ov/libother.so").is_symlink()
