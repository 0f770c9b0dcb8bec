"""Asks the system for huge pages, by way of the C library's allocator.

A model's weights, and all else, then need fewer entries of the processor's cache of page tables. Sources: glibc's
manual, "Memory Allocation Tunables"; Linux's admin-guide/mm/transhuge.
"""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

_MODE: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_TUNABLES: Final = "GLIBC_TUNABLES"
_TUNABLE: Final = "glibc.malloc.hugetlb"
_STARTED_AGAIN: Final = "_RESONNX_STARTED_AGAIN"


def with_huge_pages(environment: Mapping[str, str], mode: Path = _MODE) -> dict[str, str]:
    """Return an environment whose programs ask for huge pages, where the system gives them to who asks.

    Unchanged where it gives them to all or none, and where the allocator has been told already. Other C libraries than
    glibc, and those before 2.35, ignore it.
    """
    with suppress(OSError):
        tunables = environment.get(_TUNABLES, "")
        if "[madvise]" in mode.read_text() and _TUNABLE not in tunables:
            return {**environment, _TUNABLES: ":".join([*filter(None, [tunables]), f"{_TUNABLE}=1"])}
    return dict(environment)


def start_again() -> None:
    """Start this program anew, as the same process, unless the allocator has read all of it already."""
    environment = with_huge_pages(os.environ)
    # Once: a loader that drops the setting, as for programs with privileges of their own, would go on for ever.
    if environment != dict(os.environ) and _STARTED_AGAIN not in environment:
        with suppress(OSError):
            os.execve(sys.executable, sys.orig_argv, {**environment, _STARTED_AGAIN: "1"})  # noqa: S606 - itself
