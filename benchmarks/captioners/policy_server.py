"""Runs resonnx-server with another caption policy than its own, for comparison.

    python benchmarks/captioners/policy_server.py one | rigid -m resonnx_server --repository models

The policies:

    one      one picture from start to end, then the next
    rigid    a batch of the waiting pictures, decoded until the last has ended; none joins, none leaves
"""

import sys
from collections.abc import Sequence
from typing import Any, Final

from resonnx_server.__main__ import main
from resonnx_server.captioning import engine
from resonnx_server.captioning.encode_policy import EncodePolicy, Load
from resonnx_server.captioning.stepping import StepJob
from resonnx_server.repository.version import Version
from resonnx_server.runtime.decoding.search import Search
from resonnx_server.runtime.decoding.sequence import Sequence as Caption
from resonnx_server.runtime.decoding.sequence import Token
from resonnx_server.runtime.decoding.step_output import StepOutput

# Most pictures of a rigid batch.
RIGID_BATCH: Final = 16


class OneAtATime(EncodePolicy):
    """One picture from start to end, then the next."""

    def encode_now(self, load: Load) -> int:
        return 0 if load.captions else min(load.waiting, 1)


class Rigid(EncodePolicy):
    """A batch of the waiting pictures, decoded until the last has ended."""

    def encode_now(self, load: Load) -> int:
        return 0 if load.captions else min(load.waiting, RIGID_BATCH)


class _Held:
    """Keeps the rows of a finished search until all captions of its batch have ended."""

    needs_log_probs = False

    def __init__(self, search: Search, rows: int) -> None:
        self.search = search
        self.width = rows
        self.tokens = [0] * rows
        self.finished = False

    def advance(self, _: StepOutput, rows: Sequence[int]) -> Sequence[int]:
        return range(len(rows))

    def stable_words(self) -> list[Token]:
        return []

    def ranked(self) -> list[tuple[Caption, float]]:
        return self.search.ranked()


def _release_together(job: StepJob) -> None:
    tasks = list(job.slots.owners)
    for task in tasks:
        if task.search.finished:
            task.search = _Held(task.search, len(task.rows))
    if all(isinstance(task.search, _Held) for task in tasks):
        for task in tasks:
            task.search.finished = True
        _release(job)


_release = StepJob._release


def serve(policy: str) -> None:
    """Run the command with one of the policies, which do one thing at a time on all cores."""
    kinds = {"one": (OneAtATime, _release), "rigid": (Rigid, _release_together)}
    kind, release = kinds[policy]
    changes: tuple[tuple[Any, str, object], ...] = (
        (engine, "EncodePolicy", kind),
        (StepJob, "_release", release),
        (Version, "instance_counts", lambda _: []),
    )
    for owner, name, value in changes:
        setattr(owner, name, value)
    main()


if __name__ == "__main__":
    chosen = sys.argv[1]
    del sys.argv[1:4]
    serve(chosen)
