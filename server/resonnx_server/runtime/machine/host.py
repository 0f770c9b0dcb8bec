"""Processors of this process (by affinity and cgroup quota), its GPUs, and its threads' priority and affinity."""

import math
import os
import threading
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from resonnx_server.runtime.machine.cgroups import CGROUP, OWN_GROUPS, own_groups_of, upward

_PROCESSORS = Path("/proc/cpuinfo")
_GPUS = Path("/proc/driver/nvidia/gpus")
_NICENESS: Final = 10
# ARM processors have no model name; these fields identify them.
_ARM: Final = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part")


def usable_cores(cgroup: Path = CGROUP, own_groups: Path = OWN_GROUPS) -> int:
    """Return the number of processors left by affinity and CPU quotas (cgroup v2 or v1), at least 1.

    Args:
        cgroup: Mount point of control groups.
        own_groups: File that names the process's control groups.
    """
    cores = len(affinity())
    quota = _quota(cgroup, own_groups)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def own_processors(cgroup: Path = CGROUP, own_groups: Path = OWN_GROUPS) -> tuple[int, ...]:
    """Return the numbers of the usable processors, sorted; empty if a quota allows only a part of their time."""
    processors = affinity()
    return processors if usable_cores(cgroup, own_groups) == len(processors) else ()


def compute_thread() -> None:
    """Lower the priority of the calling thread, and of threads it starts, below the event loop's and decoding's.

    Best effort: does nothing if the system does not allow it.
    """
    thread = threading.get_native_id()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))


def stay_on(processors: Collection[int]) -> None:
    """Restrict the calling thread to these processors; does nothing if the system does not allow it."""
    with suppress(OSError):
        os.sched_setaffinity(threading.get_native_id(), processors)


def affinity() -> tuple[int, ...]:
    """Return the numbers of the processors that this process may run on, sorted."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _quota(cgroup: Path, own_groups: Path) -> float | None:
    """Return the smallest quota of our control group and its ancestors, in processors."""
    unified, cpu = own_groups_of(own_groups, "cpu")
    quotas = [_quota_v2(group) for group in upward(cgroup, unified)]
    for mount in ("cpu", "cpu,cpuacct"):
        quotas += [_quota_v1(group) for group in upward(cgroup / mount, cpu)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_v2(group: Path) -> float | None:
    try:
        limit, period = (group / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(group: Path) -> float | None:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text())
        period_us = int((group / "cpu.cfs_period_us").read_text())
        return quota / period_us if quota > 0 else None
    except (OSError, ValueError):
        return None


def processor_model(processors: Path = _PROCESSORS) -> str:
    """Return the first processor's model name, or on ARM the fields that identify it; "" if unknown."""
    fields: dict[str, str] = {}
    with suppress(OSError):
        for line in processors.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    return fields.get("model name") or " ".join(fields[name] for name in _ARM if name in fields)


def gpu_models(gpus: Path = _GPUS) -> tuple[str, ...]:
    """Return the model names of the NVIDIA GPUs, sorted; empty without a driver."""
    found = []
    for file in gpus.glob("*/information"):
        try:
            lines = file.read_text().splitlines()
        except OSError:
            continue
        found += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return tuple(sorted(found))
