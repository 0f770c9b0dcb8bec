import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from resonnx_server.memory.freed import share_heaps

from ...conftest import RunningServer

_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="glibc")
# The address space of one of glibc's heaps, and where it begins.
_HEAP = 64 << 20
# Threads that all hold memory at a time, and the heaps that they have.
_THREADS = """
import ctypes, sys, threading
from resonnx_server.memory.freed import share_heaps
print(share_heaps(2))
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
all_hold = threading.Barrier(25)
def hold():
    libc.malloc(ctypes.c_size_t(5000))
    all_hold.wait()
for _ in range(24):
    threading.Thread(target=hold).start()
all_hold.wait()
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


def _heaps(path: Path, **variables: str) -> tuple[bool, int]:
    command = [sys.executable, "-c", _THREADS, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **variables})
    return done.stdout.strip() == "True", path.read_text().count("<heap ")


@_LINUX
def test_threads_share_few_heaps(tmp_path: Path) -> None:
    assert _heaps(tmp_path / "shared") == (True, 2)


@_LINUX
def test_the_number_that_a_user_sets_stays(tmp_path: Path) -> None:
    assert _heaps(tmp_path / "chosen", MALLOC_ARENA_MAX="3") == (False, 3)
    assert not share_heaps(2, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=3"})


@_LINUX
def test_threads_of_a_server_share_heaps(demo_server: RunningServer) -> None:
    maps = Path(f"/proc/{demo_server.process.pid}/maps").read_text()
    ranges = [
        (int(start, 16), int(end, 16)) for start, end in re.findall(r"^(\w+)-(\w+) rw-p 0+ 00:00 0 *$", maps, re.M)
    ]
    heaps = [start for start, end in ranges if start % _HEAP == 0 and end - start <= _HEAP]
    # The first one is elsewhere, and a larger one may have several parts.
    assert 1 <= len(heaps) <= 2 * max(2, os.cpu_count() or 1)
