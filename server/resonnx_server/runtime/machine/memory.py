"""How much memory this process may use, and how much it uses."""

import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

from resonnx_server.runtime.machine.cgroups import CGROUP, OWN_GROUPS, own_groups_of, upward

_STATM: Final = Path("/proc/self/statm")
_MEMORY: Final = Path("/proc/meminfo")
_PAGE: Final = resource.getpagesize()
# Limits from here on mean none: cgroup v1 writes the largest number of pages.
_NO_LIMIT: Final = 1 << 60
# Address space of an idle server: libraries, and for each core some threads with stacks and heaps of their own.
_LEAST_ADDRESS_SPACE: Final = 1 << 30
_ADDRESS_SPACE_OF_A_CORE: Final = 128 << 20


def usable_memory(cgroup: Path = CGROUP, own_groups: Path = OWN_GROUPS) -> int:
    """Return the bytes that the process may use: the machine's memory, or less by its control groups and RLIMIT_AS.

    Args:
        cgroup: Mount point of control groups.
        own_groups: File that names the process's control groups.
    """
    unified, own = own_groups_of(own_groups, "memory")
    files = [group / "memory.max" for group in upward(cgroup, unified)]
    files += [group / "memory.limit_in_bytes" for group in upward(cgroup / "memory", own)]
    limits = [os.sysconf("SC_PHYS_PAGES") * _PAGE, *filter(None, map(_limit, files))]
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        # Libraries have mapped some of it by now.
        limits.append(max(0, address_space - _statm(0)))
    return min(limits)


def lack_of_address_space(cores: int) -> str | None:
    """Return in words that RLIMIT_AS is too small for the server's libraries and threads; None if it is not.

    Beyond it, libraries crash instead of reporting errors.

    Args:
        cores: Cores that the server may use; there are threads for each.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    least = _LEAST_ADDRESS_SPACE + cores * _ADDRESS_SPACE_OF_A_CORE
    if limit == resource.RLIM_INFINITY or limit >= least:
        return None
    limits = f"is limited to {limit >> 20} MiB (ulimit -v); with {cores} cores the server needs {least >> 20} MiB"
    return f"the address space {limits}, and more for models. A container's memory limit is not concerned"


def resident_bytes() -> int:
    """Return the memory that the process uses now; 0 where the system does not tell."""
    return _statm(1)


def free_memory(memory: Path = _MEMORY) -> int:
    """Return the bytes that the process may still take: within its own limits, and of what the machine has left.

    Args:
        memory: File that tells what the machine has left, as /proc/meminfo.
    """
    left = [max(0, usable_memory() - resident_bytes())]
    with suppress(OSError, ValueError, IndexError):
        lines = memory.read_text().splitlines()
        left += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    return min(left)


def _limit(file: Path) -> int | None:
    with suppress(OSError, ValueError):
        limit = int(file.read_text())
        return limit if limit < _NO_LIMIT else None
    return None


def _statm(field: int) -> int:
    try:
        return int(_STATM.read_text().split()[field]) * _PAGE
    except (OSError, ValueError):
        return 0
