"""How far one model's load is: told by the threads that load it, read by the event loop."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from resonnx_server.errors import ModelRefused

Stage = Literal["waiting", "verifying", "opening", "checking", "measuring"]


@dataclass
class Progress:
    """One model's load.

    Attributes:
        on_stage: Called with each new stage, by the thread that reached it.
        clock: Monotonic seconds.
        stage: What is done at present: files are verified, sessions opened, answers checked against the golden
            examples, batches of every size run and measured.
        moved_at_s: When anything was done last, by `clock`.
        is_over: Nobody waits for it any more.
        is_doubtful: Something that was measured is not trusted; see Version.warm.
    """

    on_stage: Callable[[Stage], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic
    stage: Stage = "waiting"
    moved_at_s: float = field(init=False)
    is_over: bool = False
    is_doubtful: bool = False

    def __post_init__(self) -> None:
        self.moved_at_s = self.clock()

    def reach(self, stage: Stage) -> None:
        """Tell what is done from now on. Raises ModelRefused if the load is over."""
        self.move()
        if stage != self.stage:
            self.stage = stage
            self.on_stage(stage)

    def move(self) -> None:
        """Tell that something was done: a batch, say. Raises ModelRefused if the load is over."""
        if self.is_over:
            raise ModelRefused("the load was ended")
        self.moved_at_s = self.clock()
