"""Finds the distribution that provides the module onnxruntime, without importing it."""

import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, distributions, packages_distributions
from typing import Final

_MODULE: Final = "onnxruntime"
# What the extras cpu, gpu and openvino require, by distribution. All of them install the same files.
REQUIREMENTS: Final = {
    "onnxruntime": "onnxruntime>=1.31",
    "onnxruntime-gpu": "onnxruntime-gpu[cuda,cudnn]>=1.31",
    "onnxruntime-openvino": "onnxruntime-openvino>=1.24,<1.25",
}
_CHOICE: Final = "pip install '{}' (for NVIDIA GPUs '{}', for OpenVINO '{}')".format(*REQUIREMENTS.values())


class RuntimeFault(Exception):
    """ONNX Runtime is not installed, or two distributions of it are."""


def check_runtime(path: Sequence[str] | None = None) -> None:
    """Check that one distribution of ONNX Runtime is installed; a build of another name counts as one.

    Args:
        path: Folders to search; None for sys.path.

    Raises:
        RuntimeFault: There is none, or there are two. The text says what to type.
    """
    path = sys.path if path is None else path
    found = [each.metadata["Name"] for each in _known(path)]
    if len(found) > 1:
        raise RuntimeFault(
            f"{' and '.join(found)} are installed together and overwrite each other's files: "
            f"pip uninstall --yes {' '.join(found)}, then one of them: {_CHOICE}"
        )
    if not found and PathFinder.find_spec(_MODULE, list(path)) is None:
        raise RuntimeFault(f"ONNX Runtime is not installed: {_CHOICE}")


def runtime_distribution() -> tuple[str, str]:
    """Return name and version of the installed distribution of ONNX Runtime.

    Raises:
        RuntimeFault: There is none.
    """
    for found in _known(sys.path):
        return found.metadata["Name"], found.version
    for name in packages_distributions().get(_MODULE, ()):
        return name, Distribution.from_name(name).version
    raise RuntimeFault(f"ONNX Runtime is not installed: {_CHOICE}")


def _known(path: Sequence[str]) -> list[Distribution]:
    return [found for name in REQUIREMENTS for found in list(distributions(name=name, path=list(path)))[:1]]
