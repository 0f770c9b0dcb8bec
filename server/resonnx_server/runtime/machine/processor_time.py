"""Tells what processor time this process got, and for how long its threads had work and no processor.

Linux says so for each thread (/proc/self/task/*/schedstat), and for each processor how long a hypervisor had it
(/proc/stat). Elsewhere, and in sandboxes without them, nothing is told, and nothing seems disturbed.
"""

import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_TASKS: Final = Path("/proc/self/task")
_PROCESSORS: Final = Path("/proc/stat")
# The field of /proc/stat's lines, after the processor's name, and its unit.
_STOLEN: Final = 7
# What a thread waits for a processor that is idle, and wakes up, each time that it starts to run.
_WAKING_NS: Final = 100_000
# Share of the wanted time that may go to others before what was measured is doubted.
_MOST_LOST: Final = 0.1


@dataclass(frozen=True)
class ProcessorTime:
    """Of all threads of a process, in all.

    Attributes:
        run_ns: Time on a processor.
        waited_ns: Time ready to run, and not on a processor.
        turns: How often a thread began to run.
        stolen_ns: Time that a hypervisor gave our processors to others while there was work for them.
    """

    run_ns: int = 0
    waited_ns: int = 0
    turns: int = 0
    stolen_ns: int = 0

    @classmethod
    def now(cls, tasks: Path = _TASKS, processors: Path = _PROCESSORS) -> Self:
        """Return what the threads that live now have got since they began."""
        run_ns = waited_ns = turns = 0
        with suppress(OSError):
            for thread in os.listdir(tasks):
                # It may have ended since.
                with suppress(OSError, ValueError):
                    fields = (tasks / thread / "schedstat").read_text().split()
                    run, waited, begun = map(int, fields)
                    run_ns, waited_ns, turns = run_ns + run, waited_ns + waited, turns + begun
        return cls(run_ns, waited_ns, turns, _stolen_ns(processors))

    def since(self, before: "ProcessorTime") -> "ProcessorTime":
        """Return what came between `before` and this; threads that ended meanwhile are missing, so have them live."""
        return ProcessorTime(
            self.run_ns - before.run_ns,
            self.waited_ns - before.waited_ns,
            self.turns - before.turns,
            self.stolen_ns - before.stolen_ns,
        )

    @property
    def lost(self) -> float:
        """The share of the wanted processor time that others had, 0..1; waking up counts for nothing."""
        lost_ns = max(0, self.waited_ns - _WAKING_NS * self.turns) + max(0, self.stolen_ns)
        return lost_ns / (lost_ns + self.run_ns) if lost_ns and self.run_ns >= 0 else 0.0

    @property
    def is_disturbed(self) -> bool:
        """Something else held the processors for so long that what was timed tells more of it than of the work."""
        return self.lost > _MOST_LOST


def _stolen_ns(processors: Path) -> int:
    ticks = 0
    with suppress(OSError, ValueError, IndexError):
        ours = {f"cpu{number}" for number in _affinity()}
        for line in processors.read_text().splitlines():
            name, *fields = line.split()
            if name in ours:
                ticks += int(fields[_STOLEN])
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _affinity() -> Collection[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
