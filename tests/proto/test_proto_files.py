"""The .proto files compile as they lie, from a clone and from the wheel, and serve clients of other languages."""

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

_CLONE = Path(__file__).parents[2] / "proto"
_NODE = Path(__file__).parent / "node"
_FILES = [
    "inference/grpc_service.proto",
    "inference/model_config.proto",
    "resonnx/v1/manifest.proto",
    "resonnx/v1/repository.proto",
    "resonnx/v1/vision.proto",
]


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of .proto files of an installed wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    # A build leaves files beside its source.
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    source = shutil.copytree(_CLONE, folder / "proto", ignore=ignored)
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", source, "-w", folder)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed/resonnx_proto/protos"


@pytest.fixture(params=["clone", "wheel"])
def root(request: pytest.FixtureRequest) -> Path:
    return _CLONE if request.param == "clone" else request.getfixturevalue("wheel")


def test_every_file_is_there(root: Path) -> None:
    found = {
        path.relative_to(root).as_posix()
        for name in ("inference", "resonnx")
        for path in (root / name).rglob("*.proto")
    }
    assert sorted(found) == _FILES


def test_python_stubs_can_be_made(root: Path, tmp_path: Path) -> None:
    _run(sys.executable, "-m", "grpc_tools.protoc", "-I", root, f"--python_out={tmp_path}",
         f"--grpc_python_out={tmp_path}", *_FILES)  # fmt: skip
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {sysconfig.get_path('purelib')!r}]\n"
        "from inference import grpc_service_pb2, grpc_service_pb2_grpc, model_config_pb2\n"
        "from resonnx.v1 import manifest_pb2, vision_pb2, vision_pb2_grpc\n"
        "request = vision_pb2.ClassifyRequest(model='m', image={'encoded': b'x'})\n"
        "assert vision_pb2.ClassifyRequest.FromString(request.SerializeToString()) == request\n"
        "assert grpc_service_pb2.ModelConfigResponse(config={'name': 'm'}).config.name == 'm'\n"
        "print(vision_pb2_grpc.__name__, manifest_pb2.DESCRIPTOR.name)\n"
    )
    # Without the packages that are installed here in place: `resonnx` is also our client's name.
    told = _run(sys.executable, "-I", "-S", "-c", code)
    assert told.split() == ["resonnx.v1.vision_pb2_grpc", "resonnx/v1/manifest.proto"]


def test_stubs_of_go_and_java_have_a_package(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "set"
    _run(sys.executable, "-m", "grpc_tools.protoc", "-I", root, f"--descriptor_set_out={target}", *_FILES)
    files = FileDescriptorSet.FromString(target.read_bytes()).file
    assert len(files) == len(_FILES)
    for file in files:
        folder = file.name.rpartition("/")[0]
        # Go: an import path that ends in the file's folder, and the package's name.
        assert file.options.go_package.startswith(f"github.com/resonnx/resonnx/proto/{folder};")
        assert file.options.java_package == f"io.github.resonnx.{folder.rpartition('/')[2]}"
        assert file.options.java_multiple_files


@pytest.mark.timeout(300)
def test_a_node_client_classifies(root: Path, node_modules: Path, demo_server, samples: Path, truth) -> None:
    name = next(name for name, entry in truth.items() if entry["model"] == "digits")
    # Node looks for packages beside its script.
    script = shutil.copy(_NODE / "classify.js", node_modules / "classify.js")
    told = json.loads(_run("node", script, root, demo_server.grpc, "digits", samples / name))
    assert told == {"vision": truth[name]["label"], "tensors": truth[name]["label"]}
