"""A server with everything on that the protocol has, and taps before its ports."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from onnx import TensorProto, helper

from ..conftest import RunningServer, StartServer
from ..server import answering, bare_graphs, clip_model
from .features import of_call, of_request
from .http1 import requests
from .http2 import PREFACE, calls
from .matrix import rest_paths
from .tap import Tap

FLAGS = (
    "--admin-port",
    "0",
    "--control-mode",
    "explicit",
    "--load-models",
    "*",
    "--system-shared-memory-bytes",
    "1000000",
)
# Datatypes that a model gives back.
DATATYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "BYTES": TensorProto.STRING,
}


@dataclass
class Tapped:
    """The server's ports as clients see them, and what they are asked through the taps.

    Attributes:
        server: The server.
        told: What the programs of clients are told: their Started.
    """

    server: RunningServer
    told: dict[str, str]
    taps: list[Tap] = field(default_factory=list)

    def uses(self) -> set[tuple[str, str]]:
        """Return path and use of all that was asked with success."""
        found: set[tuple[str, str]] = set()
        for recording in (recording for tap in self.taps for recording in tap.recordings):
            if recording.sent.startswith(PREFACE):
                found.update(use for call in calls(recording) for use in of_call(call))
            else:
                paths = rest_paths()
                found.update(use for request in requests(recording) for use in of_request(request, paths))
        return found


@contextmanager
def tapped(server: RunningServer, told: dict[str, str]) -> Iterator[Tapped]:
    """Put taps before the admin port, which serves all methods, and the HTTP port."""
    assert server.admin is not None
    with Tap(server.admin) as grpc, Tap(server.http) as http:
        yield Tapped(server, told | {"grpc": grpc.address, "http": http.address}, [grpc, http])


@contextmanager
def everything(start: StartServer, demo: Path, folder: Path) -> Iterator[RunningServer]:
    """Start a server of the demo models, `motions` of clips, `doubling`, its like `spare`, `proven` and `identity_…`.

    `proven` has versions 1 and 2.
    """
    repository = folder / "models"
    shutil.copytree(demo, repository)
    for name in ("digits", "scenes"):
        (repository / name / "config.toml").write_text("labels = {canary = 1}\n")
    clip_model.write(repository / "motions" / "1", clip_model.files())
    (repository / "motions" / "config.toml").write_text("labels = {canary = 1}\n")
    graphs = {f"identity_{name.lower()}": _identity(kind) for name, kind in DATATYPES.items()}
    for name, content in {**graphs, "doubling": bare_graphs.doubling(), "spare": bare_graphs.doubling()}.items():
        path = repository / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    shutil.copytree(repository / "doubling" / "1", repository / "doubling" / "2")
    for version in "12":
        (repository / "proven" / version).mkdir(parents=True)
        for file, content in answering.files(3).items():
            (repository / "proven" / version / file).write_bytes(content)
    (repository / "proven" / "config.toml").write_text('version_policy = "specific: [1]"\n')
    settings = 'version_policy = "all"\nlabels = {stable = 1, canary = 1}\nallow_timeout_override = true\n'
    (repository / "doubling" / "config.toml").write_text(settings)
    (folder / "traces").mkdir()
    with start(repository, *FLAGS, "--trace-dir", str(folder / "traces")) as server:
        yield server


def told(samples: Path, folder: Path) -> dict[str, str]:
    """Return what programs are told beside the addresses."""
    truth = json.loads((samples / "truth.json").read_text())
    digit, scene = (
        next(name for name, each in truth.items() if each["model"] == model) for model in ("digits", "scenes")
    )
    folder.mkdir()
    pictures = {"picture": str(samples / digit), "label": truth[digit]["label"], "scene": str(samples / scene)}
    return {**pictures, "folder": str(folder)}


def _identity(kind: int) -> bytes:
    x, y = (helper.make_tensor_value_info(name, kind, ["n", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content
