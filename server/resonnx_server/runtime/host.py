"""Tells what this process may compute on: processors by affinity and cgroup quota, never the host's count; GPUs.

And where its threads stand among others: how urgent they are, and which processor is theirs.
"""

import math
import os
import threading
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

_CGROUP = Path("/sys/fs/cgroup")
_GPUS = Path("/proc/driver/nvidia/gpus")
_NICENESS: Final = 10


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Return the processors that affinity and the container's CPU quota (cgroup v2 or v1) leave, at least 1."""
    cores = len(_affinity())
    quota = _quota(cgroup)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def own_processors(cgroup: Path = _CGROUP) -> tuple[int, ...]:
    """Return the processors by number if all of them are ours to use, sorted; none if a quota gives us only a part."""
    processors = _affinity()
    return processors if usable_cores(cgroup) == len(processors) else ()


def compute_thread() -> None:
    """Make the calling thread, and those that it starts, give way to the event loop and to decoding.

    Where the system does not allow it, nothing happens: it is only slower.
    """
    thread = threading.get_native_id()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))


def stay_on(processors: Collection[int]) -> None:
    """Let the calling thread run on these processors only; where the system does not allow it, nothing happens."""
    with suppress(OSError):
        os.sched_setaffinity(threading.get_native_id(), processors)


def _affinity() -> tuple[int, ...]:
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _quota(cgroup: Path) -> float | None:
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota = int((cgroup / "cpu/cpu.cfs_quota_us").read_text())
        period_us = int((cgroup / "cpu/cpu.cfs_period_us").read_text())
        return quota / period_us if quota > 0 else None
    except (OSError, ValueError):
        return None


def gpu_models(gpus: Path = _GPUS) -> tuple[str, ...]:
    """Return the names of the NVIDIA GPUs that the driver shows here, sorted; none where there is no driver."""
    found = []
    for file in gpus.glob("*/information"):
        try:
            lines = file.read_text().splitlines()
        except OSError:
            continue
        found += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return tuple(sorted(found))
