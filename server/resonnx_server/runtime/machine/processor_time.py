"""Processor time of this process, and the time that its threads waited for a processor.

Read from /proc/self/task/*/schedstat and, for time stolen by a hypervisor, /proc/stat. All zeros where these files are
missing, so that nothing counts as disturbed.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from resonnx_server.runtime.machine.host import affinity

_TASKS: Final = Path("/proc/self/task")
_PROCESSORS: Final = Path("/proc/stat")
# Index of the stolen time in /proc/stat's lines, after the processor's name.
_STOLEN: Final = 7
# Time to wake up an idle processor, each time that a thread starts to run.
_WAKING_NS: Final = 100_000
# Share of the wanted time that others may take before a measurement is doubted.
_MOST_LOST: Final = 0.1


@dataclass(frozen=True)
class ProcessorTime:
    """Totals over all threads of a process.

    Attributes:
        run_ns: Time on a processor.
        waited_ns: Time ready to run without a processor.
        turns: Times that a thread began to run.
        stolen_ns: Time that a hypervisor took our busy processors away.
    """

    run_ns: int = 0
    waited_ns: int = 0
    turns: int = 0
    stolen_ns: int = 0

    @classmethod
    def now(cls, tasks: Path = _TASKS, processors: Path = _PROCESSORS) -> Self:
        """Return the totals of the live threads since they began."""
        run_ns = waited_ns = turns = 0
        with suppress(OSError):
            for thread in os.listdir(tasks):
                # The thread may have ended since.
                with suppress(OSError, ValueError):
                    fields = (tasks / thread / "schedstat").read_text().split()
                    run, waited, begun = map(int, fields)
                    run_ns, waited_ns, turns = run_ns + run, waited_ns + waited, turns + begun
        return cls(run_ns, waited_ns, turns, _stolen_ns(processors))

    def since(self, before: "ProcessorTime") -> "ProcessorTime":
        """Return the difference to `before`; threads that ended in between are missing."""
        return ProcessorTime(
            self.run_ns - before.run_ns,
            self.waited_ns - before.waited_ns,
            self.turns - before.turns,
            self.stolen_ns - before.stolen_ns,
        )

    @property
    def lost(self) -> float:
        """Share of the wanted processor time that others had, 0..1, without wake-up times."""
        lost_ns = max(0, self.waited_ns - _WAKING_NS * self.turns) + max(0, self.stolen_ns)
        return lost_ns / (lost_ns + self.run_ns) if lost_ns and self.run_ns >= 0 else 0.0

    @property
    def is_disturbed(self) -> bool:
        """Whether others held the processors for so long that a measurement is doubtful."""
        return self.lost > _MOST_LOST


def _stolen_ns(processors: Path) -> int:
    ticks = 0
    with suppress(OSError, ValueError, IndexError):
        ours = {f"cpu{number}" for number in affinity()}
        for line in processors.read_text().splitlines():
            name, *fields = line.split()
            if name in ours:
                ticks += int(fields[_STOLEN])
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
