"""Environments of other servers and runtimes, each from PyPI into a folder of its own: .make/peers/NAME."""

import os
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

import onnxruntime as ort

_FOLDER: Final = Path(".make/peers")
_RUNTIME: Final = f"onnxruntime=={ort.__version__}"
_PACKAGES: Final = {
    "triton": ["nvidia-pytriton==0.7.0", "pillow", _RUNTIME, "onnxruntime-ep-openvino"],
    # Its worker processes ask uvloop for a loop that newer ones no longer make.
    "mlserver": ["mlserver==1.7.1", "uvloop<0.22", "pillow", _RUNTIME, "onnxruntime-ep-openvino"],
    "fastapi": ["fastapi", "uvicorn[standard]", "python-multipart", "pillow", "numpy", _RUNTIME],
    "fastapi-openvino": [
        *("fastapi", "uvicorn[standard]", "python-multipart", "pillow", "numpy", _RUNTIME, "onnxruntime-ep-openvino")
    ],
    "litserve": ["litserve", "python-multipart", "pillow", "numpy", _RUNTIME],
    "bentoml": ["bentoml", "pillow", "numpy", _RUNTIME],
    "ray": ["ray[serve]", "python-multipart", "pillow", "numpy", _RUNTIME],
    "torch": [
        f"torch=={metadata.version('torch')}",
        "fastapi",
        "uvicorn[standard]",
        "python-multipart",
        "pillow",
        "numpy",
    ],
    "resonnx": ["-e", "proto", "-e", "server[cpu]"],
    "resonnx-openvino": ["-e", "proto", "-e", "server[cpu,openvino-plugin]"],
    "onnxruntime-openvino": ["-e", "proto", "-e", "server[openvino]"],
    "onnxruntime-ep-openvino": ["-e", "proto", "-e", "server[cpu,openvino-plugin]"],
    "openvino": ["openvino", "numpy"],
}


def environment(name: str) -> Path:
    """Return an environment's Python; installs it where it is missing, in the newest versions where none is pinned."""
    folder = _FOLDER.resolve() / name
    python = folder / "bin/python"
    # Written last, so that an installation that broke off is made again.
    done = folder / "installed"
    if not done.exists():
        print(f"installing {name} into {folder}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        # PyTorch's builds for CPUs are a tenth of the size of those on PyPI.
        more = ["--extra-index-url", os.environ.get("TORCH_INDEX_URL", "https://download.pytorch.org/whl/cpu")]
        command = [str(python), "-m", "pip", "install", "--quiet", *(more if name == "torch" else [])]
        # Without this checkout's packages, which pip would count as installed.
        alone = {variable: value for variable, value in os.environ.items() if variable != "PYTHONPATH"}
        subprocess.run([*command, *_PACKAGES[name]], check=True, env=alone)
        done.touch()
    return python


@cache
def version(name: str, package: str) -> str:
    """Return the version of a package in an environment."""
    code = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    found = subprocess.run([str(environment(name)), "-c", code, package], capture_output=True, text=True, check=True)
    return found.stdout.strip()


@cache
def size_mb(name: str) -> float:
    """Return what an environment takes on the disk, in MB, without pip and setuptools, which every one has."""
    packages = next(environment(name).parent.parent.glob("lib/python3*/site-packages"))
    apart = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
    files = [path for path in packages.rglob("*") if path.is_file() and not path.is_symlink()]
    sizes = [path.stat().st_size for path in files if not path.relative_to(packages).parts[0].startswith(apart)]
    return sum(sizes) / 1e6
