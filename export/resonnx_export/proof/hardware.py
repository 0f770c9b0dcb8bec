"""Names the hardware that an export was measured on, as the operating system tells it."""

import platform
import re
from pathlib import Path
from typing import Final

_PROCESSORS: Final = Path("/proc/cpuinfo")
_NVIDIA: Final = Path("/proc/driver/nvidia/gpus")


def processor(listing: Path = _PROCESSORS) -> str:
    """Return the processor's model name, or at least its architecture."""
    return _field(listing, "model name") or platform.processor() or platform.machine()


def accelerators(folder: Path = _NVIDIA) -> list[str]:
    """Return the model names of the GPUs that NVIDIA's driver shows; none without it."""
    names = (_field(path, "Model") for path in sorted(folder.glob("*/information")))
    return [name for name in names if name]


def _field(path: Path, name: str) -> str | None:
    """Return the value of the first line `name : value`."""
    try:
        match = re.search(rf"^{name}\s*:\s*(.+?)\s*$", path.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return match[1] if match else None
