"""A task is one entry in each room of the server that serves it, under the task's name."""

from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.inference import tasks
from resonnx_server.protocol.oip.tasks import SERVE
from resonnx_server.repository.loader import TASKS

KNOWN = {task.name: task for task in vars(tasks).values() if isinstance(task, tasks.Task)}


def test_every_task_of_the_api_is_known() -> None:
    assert {task.kind for task in KNOWN.values()} == set(pb.Task.values()) - {pb.TASK_UNSPECIFIED}


def test_every_task_is_registered_where_it_is_served() -> None:
    assert SERVE.keys() == KNOWN.keys()
    # A bare ONNX file has no manifest.
    assert TASKS.keys() == {task.kind for task in KNOWN.values()} - {pb.TASK_TENSORS}
    assert all(KNOWN[entry.task.name] is entry.task for entry in TASKS.values())
