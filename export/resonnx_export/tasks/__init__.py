"""The registry of tasks: one entry each, under the task's name in the server and the client."""

from collections.abc import Mapping
from typing import Final

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_export.tasks.caption import CAPTION
from resonnx_export.tasks.classify import CLASSIFY
from resonnx_export.tasks.classify_video import CLASSIFY_VIDEO
from resonnx_export.tasks.task import Task

TASKS: Final[Mapping[str, Task]] = {task.name: task for task in (CLASSIFY, CAPTION, CLASSIFY_VIDEO)}


def task_of(manifest: pb.Manifest) -> Task:
    """Return the entry of a manifest's task."""
    return next(task for task in TASKS.values() if task.kind == manifest.task)
