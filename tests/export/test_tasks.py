"""The registry of tasks: complete entries, and no other module that distinguishes tasks."""

import re
from pathlib import Path

import resonnx
import resonnx_export
from resonnx_export.tasks import TASKS, task_of
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.inference import tasks as served

from .conftest import LABELS

PACKAGE = Path(resonnx_export.__file__).parent


def test_tasks_have_the_names_of_the_server_and_the_client() -> None:
    exported = {"classify_video": pb.TASK_VIDEO_CLASSIFIER}  # and not yet served
    assert {name: task.kind for name, task in TASKS.items()} == exported | {
        task.name: task.kind for task in (served.CLASSIFY, served.CAPTION)
    }
    assert all((Path(resonnx.__file__).parent / "_tasks" / f"{name}.py").is_file() for name in TASKS.keys() - exported)
    for name, task in TASKS.items():
        assert task.name == name
        assert task_of(pb.Manifest(task=task.kind)) is task
        assert isinstance(getattr(pb.Manifest(), task.model), task.spec)
        assert (PACKAGE / "report" / "templates" / f"prediction_{name}.html").is_file()


def test_only_the_registry_distinguishes_tasks() -> None:
    naming = [
        path.relative_to(PACKAGE).as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        if re.search(r"\bTASK_[A-Z]+", path.read_text())
    ]
    assert naming == ["tasks/caption.py", "tasks/classify.py", "tasks/classify_video.py"]


def test_the_type_of_the_spec_decides_the_task(manifest: pb.Manifest) -> None:
    assert task_of(manifest).name == "classify"
    assert list(manifest.classifier.labels) == list(LABELS)
    assert not manifest.HasField("captioner")
