"""Processors that threads may have to themselves, shared out between lanes and between servers on one machine.

A processor is claimed by a name that only one process on the machine can hold, and that the kernel lets go of however
the process ends: a socket's in Linux' abstract namespace, which nothing listens on. Servers that cannot see each other
(containers with networks of their own) cannot see each other's claims; give each its own CPU set.
"""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

_TOPOLOGY = Path("/sys/devices/system/cpu")
# A lane that got none asks again after so long: another server may have ended, as in a restart.
_ASK_AGAIN_NS: Final = 5_000_000_000


class Closable(Protocol):
    """What holds a claim until it is closed."""

    def close(self) -> None:
        """Let go."""


# Claims a processor by its number; None if another has it, or where there is no way to claim.
Claim = Callable[[int], Closable | None]


def claim(processor: int) -> Closable | None:
    """Claim a processor on this machine until what is returned is closed, or the process ends."""
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
    """Return processors in the order in which to use them: one of each core, then the cores' second ones, and so on."""
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
    """Gives out the processors that are this process's to use.

    Args:
        ours: In the order in which to use them; none where only a part of their time is ours.
        claim: See `claim`.
        clock: Monotonic ns.
    """

    def __init__(self, ours: Sequence[int], claim: Claim = claim, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.ours = tuple(ours)
        self._claim, self._clock = claim, clock
        self._lock = threading.Lock()
        self._held: dict[int, Closable] = {}
        self._ask_again_ns: int | None = None

    def take(self) -> int | None:
        """Return a processor that no other thread or server has, for as long as this one runs; None if all are taken.

        Cheap to ask again and again.
        """
        with self._lock:
            now = self._clock()
            if self._ask_again_ns is not None and now < self._ask_again_ns:
                return None
            for processor in self.ours:
                if processor not in self._held and (holder := self._claim(processor)) is not None:
                    self._held[processor] = holder
                    return processor
            self._ask_again_ns = now + _ASK_AGAIN_NS
            return None

    def give_back(self, processor: int) -> None:
        """Let others have it."""
        with self._lock:
            self._held.pop(processor).close()
            self._ask_again_ns = None
