"""Exclusive processors for threads, distributed between lanes and between servers on one machine.

A claim is the name of a socket in Linux' abstract namespace: one process on the machine can hold it, and the kernel
releases it however the process ends. Containers with separate networks do not see each other's claims; give each its
own CPU set.
"""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from resonnx_server.runtime.machine.host import stay_on

_TOPOLOGY = Path("/sys/devices/system/cpu")
# A lane without a processor tries again after so long: another server may have ended, as in a restart.
_RETRY_NS: Final = 5_000_000_000


class Closable(Protocol):
    """Holds a claim until it is closed."""

    def close(self) -> None:
        """Release the claim."""


# Claims a processor by its number; returns None if it is taken or cannot be claimed on this system.
Claim = Callable[[int], Closable | None]


def claim(processor: int) -> Closable | None:
    """Claim a processor on this machine until the returned object is closed or the process ends."""
    if not hasattr(socket, "AF_UNIX"):
        return None
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        holder.bind(f"\0resonnx-processor-{processor}")
    except OSError:
        holder.close()
        return None
    return holder


def cores_first(processors: Sequence[int], topology: Path = _TOPOLOGY) -> tuple[int, ...]:
    """Return processors ordered by use: the first hardware thread of each core, then the second ones, and so on."""
    seen: dict[str, int] = {}
    turns = []
    for processor in sorted(processors):
        siblings = str(processor)
        with suppress(OSError):
            siblings = (topology / f"cpu{processor}" / "topology" / "thread_siblings_list").read_text().strip()
        turn = seen[siblings] = seen.get(siblings, -1) + 1
        turns.append((turn, processor))
    return tuple(processor for _, processor in sorted(turns))


class Processors:
    """Distributes this process's processors.

    Args:
        ours: Processor numbers in the order of use; empty if a quota allows only a part of their time.
        claim: Claims a processor.
        clock: Monotonic ns.
    """

    def __init__(self, ours: Sequence[int], claim: Claim = claim, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.ours = tuple(ours)
        self._claim, self._clock = claim, clock
        self._lock = threading.Lock()
        self._held: dict[int, Closable] = {}
        self._retry_at_ns: int | None = None

    def take(self) -> int | None:
        """Return a processor that no other thread or server holds, or None if all are taken. Cheap to call often."""
        with self._lock:
            now = self._clock()
            if self._retry_at_ns is not None and now < self._retry_at_ns:
                return None
            for processor in self.ours:
                if processor not in self._held and (holder := self._claim(processor)) is not None:
                    self._held[processor] = holder
                    return processor
            self._retry_at_ns = now + _RETRY_NS
            return None

    def give_back(self, processor: int) -> None:
        """Release a processor."""
        with self._lock:
            self._held.pop(processor).close()
            self._retry_at_ns = None


class Seat:
    """The processor of one thread, which takes it when it first works alone. Called by that thread.

    Args:
        processors: The process's.
    """

    def __init__(self, processors: Processors) -> None:
        self._processors = processors
        self._mine: int | None = None
        self._stays = False

    def stay(self, *, alone: bool) -> None:
        """Keep the thread to its processor while it works alone, else to those of the process."""
        if alone and self._mine is None:
            self._mine = self._processors.take()
        if self._mine is not None and self._stays != alone:
            self._stays = alone
            stay_on({self._mine} if alone else self._processors.ours)

    def leave(self) -> None:
        """Give the processor back: the thread ends."""
        if self._mine is not None:
            self._processors.give_back(self._mine)
