"""Tells what this process may compute on: processors by affinity and cgroup quota, never the host's count; GPUs."""

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_GPUS = Path("/proc/driver/nvidia/gpus")


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Return the processors that affinity and the container's CPU quota (cgroup v2 or v1) leave, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = _quota(cgroup)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


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
