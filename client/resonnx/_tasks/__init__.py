"""The registry of tasks: everything in which calls of one task differ from calls of another.

A new task is a module here, an entry in `TASKS`, methods of both clients and a module of `_commands/`.
"""

from typing import Any, Final

from resonnx._tasks.caption import CAPTION
from resonnx._tasks.classify import CLASSIFY
from resonnx._tasks.task import Task

TASKS: Final[dict[str, Task[Any]]] = {task.name: task for task in (CLASSIFY, CAPTION)}
"""By `ModelSummary.task`."""
