"""The state machine of one version with one content: a generation.

    FOUND ──→ VERIFYING ──→ LOADING ──→ WARMING ──→ READY ──→ DRAINING ──→ UNLOADED
      │           │            │           │          │           │
      └───────────┴────────────┴───────────┴──────────┴───────────┴──→ REFUSED

FOUND: its load waits for its turn. VERIFYING: checksums, signature, manifest. LOADING: sessions are opened, and their
answers compared with the golden examples. WARMING: batches of every size are run and timed. READY: it serves. DRAINING:
it answers the requests that it was admitted for, and no others. UNLOADED: its memory is free. REFUSED: with a reason:
its load failed, or it cannot serve any more. States are skipped forwards, and never left backwards: a version whose
files change is another generation.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from resonnx_server.inference.repository_control import State

_ORDER: Final = (State.FOUND, State.VERIFYING, State.LOADING, State.WARMING, State.READY, State.DRAINING)
_LAST: Final = (State.UNLOADED, State.REFUSED)


def may_follow(before: State, after: State) -> bool:
    """Whether `after` may follow `before`."""
    if before in _LAST:
        return False
    if after in _LAST:
        return after is State.REFUSED or before is State.DRAINING
    if after is State.DRAINING:
        return before is State.READY
    return _ORDER.index(after) > _ORDER.index(before)


@dataclass(eq=False)
class Generation:
    """One version with one content.

    Attributes:
        version: Its number.
        content: What it is loaded from, life/content.py's Content: equal ones are the same files and settings.
        state: Its state.
        reason: Why it was refused.
        total: Sum of its files, once they were read; None if that is not known.
    """

    version: int
    content: Any
    state: State = field(default=State.FOUND)
    reason: str = ""
    total: str | None = None

    def move(self, state: State, reason: str = "") -> None:
        """Enter a state."""
        assert may_follow(self.state, state), f"{self.state} → {state}"
        self.state, self.reason = state, reason

    def reach(self, state: State) -> None:
        """Enter a state of a load; a load may come back to earlier ones, which changes nothing."""
        if may_follow(self.state, state):
            self.move(state)
