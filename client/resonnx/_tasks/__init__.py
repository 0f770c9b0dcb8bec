"""The registry of tasks: everything in which calls of one task differ from calls of another.

A new task is a module here, an entry in `TASKS`, methods of both clients and a module of `_commands/`.
"""

from typing import Any, Final

from resonnx._results import ModelSummary
from resonnx._tasks.caption import CAPTION
from resonnx._tasks.classify import CLASSIFY
from resonnx._tasks.classify_video import CLASSIFY_VIDEO
from resonnx._tasks.task import Task

TASKS: Final[dict[str, Task[Any]]] = {task.name: task for task in (CLASSIFY, CAPTION, CLASSIFY_VIDEO)}


def task_of(summary: ModelSummary) -> Task[Any] | None:
    """Return the task of a model; None for bare tensors, and for a task that is unknown here."""
    return next((task for task in TASKS.values() if task.model == summary.task), None)
