"""What an attack may take of a server's memory, and what it may leave."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ...conftest import RunningServer

MB = 1 << 20
BUDGET = 256 * MB
BEYOND, AFTER = 128 * MB, 64 * MB
_BACK_S = 10


@dataclass
class Attacked:
    """A server, and its memory before any attack in bytes; `serves` tells whether it answers a call."""

    server: RunningServer
    front: str
    idle: int
    serves: Callable[[], bool]

    @classmethod
    def idle_now(cls, server: RunningServer, front: str, serves: Callable[[], bool]) -> Self:
        """Return a server that has answered one call and is idle."""
        assert serves()
        return cls(server, front, _memory(server, "VmRSS"), serves)

    @property
    def grpc(self) -> str:
        """Address of the gRPC port."""
        return self.server.grpc


def _memory(server: RunningServer, name: str) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


@contextmanager
def held(attacked: Attacked, on_aio: int = BEYOND) -> Iterator[None]:
    """Fail if the process takes more than it may during the block, or keeps more of it than it may.

    Args:
        attacked: The server.
        on_aio: Bytes that the front `aio` may take beyond the budget.
    """
    server = attacked.server
    # What an attack before has left does not count as this one's, up to what it may leave.
    idle = min(_memory(server, "VmRSS"), attacked.idle + AFTER)
    # The peak is counted from here on.
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    yield
    grown = _memory(server, "VmHWM") - idle
    beyond = on_aio if attacked.front == "aio" else BEYOND
    assert grown <= BUDGET + beyond, f"{grown / MB:.0f} MB"
    began = time.monotonic()
    while (kept := _memory(server, "VmRSS") - idle) > AFTER:
        assert time.monotonic() < began + _BACK_S, f"{kept / MB:.0f} MB are kept"
        time.sleep(0.05)
    print(f"{attacked.front}: peak {grown / MB:.0f} MB, {kept / MB:.0f} MB after {time.monotonic() - began:.1f} s")
    assert server.process.poll() is None
    assert attacked.serves()
