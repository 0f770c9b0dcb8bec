"""The public surface: its names, its twins, its walls."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import resonnx
from resonnx._tasks import TASKS
from resonnx_proto.v1 import manifest_pb2


def test_all_names_are_there_and_documented() -> None:
    assert resonnx.__all__ == sorted(resonnx.__all__)
    for name in resonnx.__all__:
        assert getattr(resonnx, name).__doc__


def test_the_twins_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, tuple[object, ...]]:
        return {
            name: (
                [(p.name, p.default, _blocking(p.annotation)) for p in inspect.signature(value).parameters.values()],
                _blocking(inspect.signature(value).return_annotation),
                inspect.getdoc(value),
            )
            for name, value in inspect.getmembers(kind, callable)
            if not name.startswith("_")
        }

    assert methods(resonnx.Client) == methods(resonnx.AsyncClient)
    assert methods(resonnx.Client).keys() >= {"classify", "caption", "models", "health", "load"}
    assert all(doc for _, _, doc in methods(resonnx.Client).values())
    assert inspect.signature(resonnx.Client) == inspect.signature(resonnx.AsyncClient)


def _blocking(annotation: object) -> str:
    """Return an annotation without what only an asyncio client takes."""
    text = str(annotation).replace("AsyncGenerator", "Generator")
    return re.sub(r"collections\.abc\.AsyncIterable\[(.*)\] \| (?=collections\.abc\.Iterable\[\1\])", "", text)


def test_the_blocking_client_is_made_from_the_asyncio_client() -> None:
    generate = Path(resonnx.__file__).parents[1] / "generate"
    done = subprocess.run([sys.executable, generate, "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_the_client_is_light() -> None:
    heavy = {"numpy", "PIL", "onnxruntime", "torch", "typer", "resonnx_server", "resonnx_export"}
    code = "import resonnx, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())


def test_every_task_of_a_manifest_is_registered() -> None:
    """But for bare tensors, which have no manifest."""
    names = {name.removeprefix("TASK_").lower() for name in manifest_pb2.Task.keys()}  # noqa: SIM118
    assert {task.model for task in TASKS.values()} == names - {"unspecified", "tensors"}
    assert all(name == task.name for name, task in TASKS.items())
