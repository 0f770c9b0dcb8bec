"""The machine that a benchmark runs on."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Return the processor, the system, its load and the versions of the packages that matter."""
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), "")  # fmt: skip
    packages = {name: version(name) for name in ("onnxruntime", "grpcio", "protobuf", "numpy")}
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.platform(), "load": os.getloadavg(), **packages}
