"""The memory that the process may use is the least of the machine's and of its limits."""

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
from resonnx_server.runtime.machine.memory import free_memory, resident_bytes, usable_memory

PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
MB = 1 << 20
NO_GROUPS = "no list of groups"


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("own_groups", "files", "expected"),
    [
        (NO_GROUPS, {}, PHYSICAL),
        (NO_GROUPS, {"memory.max": "max"}, PHYSICAL),
        (NO_GROUPS, {"memory.max": f"{64 * MB}"}, 64 * MB),
        ("0::/box", {"memory.max": f"{64 * MB}", "box/memory.max": f"{32 * MB}"}, 32 * MB),
        ("0::/box", {"memory.max": f"{32 * MB}", "box/memory.max": f"{64 * MB}"}, 32 * MB),
        ("5:memory:/box\n", {"memory/box/memory.limit_in_bytes": f"{48 * MB}"}, 48 * MB),
        ("5:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, PHYSICAL),
    ],
)
def test_a_control_group_limits_it(tmp_path: Path, own_groups: str, files: dict[str, str], expected: int) -> None:
    _write(tmp_path, {**files, "own": own_groups})
    assert usable_memory(tmp_path, tmp_path / "own") == expected


def test_the_address_space_limits_it() -> None:
    code = "from resonnx_server.runtime.machine.memory import usable_memory; print(usable_memory())"
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); {code}"
    run = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=True, timeout=60)
    assert 256 * MB < int(run.stdout) < 1024 * MB


def test_what_is_allocated_is_resident() -> None:
    before = resident_bytes()
    # Pages of its own: the allocator may give memory that was resident before.
    with mmap.mmap(-1, 32 * MB) as block:
        block.write(os.urandom(32 * MB))
        assert resident_bytes() - before > 24 * MB


def test_what_is_left_is_what_the_process_may_take_and_the_machine_has(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    assert 0 < free_memory(meminfo) < usable_memory(), "the process uses some"
    meminfo.write_text("MemTotal: 16 kB\nMemAvailable: 4 kB\n")
    assert free_memory(meminfo) == 4096
    meminfo.write_text("MemAvailable: much\n")
    assert free_memory(meminfo) > 4096
