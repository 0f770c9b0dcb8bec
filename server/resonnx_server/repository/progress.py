"""Progress of one model's load: written by the loading threads, read by the event loop."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from resonnx_server.errors import ModelRefused
from resonnx_server.repository.choosing.report import RaceReport
from resonnx_server.runtime.cancellation import CANCELLED

Stage = Literal["waiting", "verifying", "trying", "opening", "checking", "measuring"]


@dataclass
class Progress:
    """One model's progress.

    Attributes:
        on_stage: Called with each new stage, on the loading thread.
        clock: Monotonic seconds.
        stage: Verifying files, trying a file without a manifest in a child process, opening sessions, checking outputs
            against the golden examples, waiting for the cores, or measuring batches.
        moved_at_s: Time of the last progress, by `clock`.
        is_over: The load was cancelled.
        is_beside: It loads beside live traffic.
        measures_again: It serves already; its doubtful measurements are repeated.
        pause: Called at each progress; lets live traffic go first.
        wait_alone: Called before the first measurement; returns when no other load works (loading/cores.py).
        is_alone: It has the cores alone, until it ends.
        is_doubtful: A measurement was disturbed or unsettled; see Warming.costs and instances.choose.
        on_race: Called with each race between candidates, on the loading thread.
    """

    on_stage: Callable[[Stage], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic
    stage: Stage = "waiting"
    moved_at_s: float = field(init=False)
    is_over: bool = False
    is_doubtful: bool = False
    is_beside: bool = False
    measures_again: bool = False
    pause: Callable[[], None] = lambda: None
    wait_alone: Callable[[], None] = lambda: None
    is_alone: bool = False
    on_race: Callable[[RaceReport], None] = lambda _: None

    def __post_init__(self) -> None:
        self.moved_at_s = self.clock()

    @property
    def takes_known(self) -> bool:
        """Whether what was measured for an alike graph is taken, as measuring would slow live traffic down."""
        return self.is_beside and not self.measures_again

    def reach(self, stage: Stage) -> None:
        """Begin a stage. Raises ModelRefused if the load was cancelled."""
        self.move()
        if stage != self.stage:
            self.stage = stage
            self.on_stage(stage)

    def measure_alone(self) -> None:
        """Have the cores alone from now on, for measurements; on the loading thread. Raises ModelRefused as `reach`."""
        if not self.is_alone:
            self.wait_alone()
            self.is_alone = True
        self.reach("measuring")

    def move(self) -> None:
        """Note progress, for example a batch. Raises ModelRefused if the load was cancelled."""
        if self.is_over:
            raise ModelRefused(CANCELLED)
        self.pause()
        self.moved_at_s = self.clock()
