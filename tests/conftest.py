"""What tests share: the demo models (exported once), samples of held-out pictures, and real servers as processes."""

import gc
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from .running import RunningServer, StartServer, running, settle

# How long an example takes says more of the machine than of what is tested.
settings.register_profile("patient", deadline=None, max_examples=50)
settings.register_profile("quick", deadline=None, max_examples=20)
# A hundred times as many as `examples` is asked for.
settings.register_profile("nightly", deadline=None, max_examples=10_000)
settings.load_profile("patient")


def examples(count: int, **more: int) -> settings:
    """Return settings for half of `count` examples in `make test`, for a fifth in `make test-fast`."""
    return settings(max_examples=count * settings.default.max_examples // 100, **more)


# Torch's waiting threads spin by default, and take the cores from everything that a test runs beside it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a worker for each core.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Shells start commands in the background with interrupts ignored, and those hand that on to what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test keeps latency tables in the user's own cache folder.
os.environ.setdefault("RESONNX_CACHE_DIR", "none")
# Servers of tests stop at once.
os.environ.setdefault("RESONNX_DRAIN_DELAY_S", "0")

_ROOT = Path(__file__).resolve().parent.parent
# What the exported demo models depend on.
_EXPORT_SOURCES = ("export/resonnx_export", "proto/resonnx_proto", "server/resonnx_server/runtime", "constraints.txt")
# Exported demo models of other sources are removed after so long.
_KEPT_S = 24 * 3600
# Fixtures that start a server or an exporter as a process: tests that use one are left out of `make test-fast`.
_PROCESSES = frozenset({"start_server", "demo_server", "demo_repository", "samples"})
# Tests whose servers run on both gRPC fronts, and those of them that take so little time that `make test` does both.
OF_THE_PROTOCOL = (
    "server/rpc/",
    "server/lifecycle/test_drain.py",
    "server/lifecycle/test_drain_delay.py",
    "server/preprocessing/test_decode_memory.py",
    "server/preprocessing/test_decode_served.py",
    "client/calls/test_end_to_end.py",
)
ON_BOTH_FRONTS = (
    "server/rpc/test_rejected.py",
    "server/rpc/oip/test_stream_order.py",
    "server/rpc/oip/test_refused_requests.py",
    "server/rpc/oip/test_tensor_protocol.py",
)
_PERF_ANALYZER = ("tritonclient==2.41.0", "nvidia-cuda-runtime-cu12==12.9.79")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Return `argname` for bytes: packed bytes hold the time, and all workers must collect the same names."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need processes of their own, whichever fixture brings them; let tests of the exporter come first.

    They take longest. The first module exports the demo models, and others need these later: no worker waits for them.
    """
    exporter = _ROOT / "tests/export"
    first = next((item.path for item in items if item.path.is_relative_to(exporter) and _exports_demo(item)), None)
    items.sort(key=lambda item: (item.path != first, not item.path.is_relative_to(exporter)))
    for item in items:
        if _PROCESSES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.process)


def _exports_demo(item: pytest.Item) -> bool:
    return "demo_repository" in getattr(item, "fixturenames", ()) and item.get_closest_marker("slow") is None


def pytest_collection_finish() -> None:
    """Take what has been imported and collected out of garbage collections: nothing of it ends before the tests do.

    Collections are rarer than usual: those of traces of networks would take a tenth of the exporter's tests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests of the protocol against servers on both gRPC fronts; those that take long on aio are slow tests."""
    path = metafunc.definition.path.relative_to(_ROOT / "tests").as_posix()
    if "grpc_front" in metafunc.fixturenames and path.startswith(OF_THE_PROTOCOL):
        marks = [] if path.startswith(ON_BOTH_FRONTS) else [pytest.mark.slow]
        fronts = ["core", pytest.param("aio", marks=marks)]
        metafunc.parametrize("grpc_front", fronts, indirect=True, scope="session")


def pytest_keyboard_interrupt() -> None:
    """Leave out what asyncio says of calls that an interrupted test has left behind: a page of tracebacks."""
    logging.getLogger("asyncio").disabled = True


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a temporary folder that all worker processes of a test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def grpc_front(request: pytest.FixtureRequest) -> str | None:
    """The front that servers are told to use; None leaves the choice to them. Parametrised in tests of the protocol."""
    front: str | None = getattr(request, "param", None)
    return front


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of servers' latency tables: to measure the same models again would take most of a start."""
    folder = shared_folder(tmp_path_factory) / "tables"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory, tables: Path, grpc_front: str | None) -> StartServer:
    """Start a server on free ports: `with start_server(repository, "--strict") as server: …`.

    Models run on the CPU provider: to compile and race others takes most of a start. `demo_server` chooses among all.
    """

    def start(
        repository: Path, *flags: str, environment: dict[str, str] | None = None
    ) -> AbstractContextManager[RunningServer]:
        settle(tables)
        log = tmp_path_factory.mktemp("server") / "log"
        usual = {"RESONNX_CACHE_DIR": str(tables), "RESONNX_PROVIDER": os.environ.get("RESONNX_PROVIDER", "cpu")}
        return running(repository, *flags, log=log, front=grpc_front, environment=usual | (environment or {}))

    return start


@pytest.fixture(scope="session")
def demo_repository() -> Path:
    """`digits` and `scenes`, exported by the command that users have; not to be written to."""
    return _demo_models() / "pictures"


@pytest.fixture(scope="session")
def video_repository() -> Path:
    """`gestures`, likewise."""
    return _demo_models() / "video"


def _demo_models() -> Path:
    """Return the folder of both repositories.

    They are kept in `.make/`, under a hash of all that they depend on, for other workers and later runs.
    """
    kept = _ROOT / ".make" / "test-models"
    repository = kept / _export_digest()
    kept.mkdir(parents=True, exist_ok=True)
    with FileLock(kept / "lock"):
        if not repository.exists():
            for old in kept.iterdir():
                # Another run may use those of today.
                if old.is_dir() and time.time() - old.stat().st_mtime > _KEPT_S:
                    shutil.rmtree(old)
            partial = kept / "partial"
            shutil.rmtree(partial, ignore_errors=True)
            command = [sys.executable, "-m", "resonnx_export", "demo", "--repository", str(partial / "pictures")]
            subprocess.run(command, check=True, timeout=300)
            # Most tests want pictures, and would load and warm one more model.
            (partial / "video").mkdir()
            (partial / "pictures" / "gestures").rename(partial / "video" / "gestures")
            partial.rename(repository)
    return repository


def _export_digest() -> str:
    """Return a hash of the sources and versions that make the demo models what they are."""
    digest = hashlib.sha256(sys.version.encode())
    for source in _EXPORT_SOURCES:
        path = _ROOT / source
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix != ".pyc":
                digest.update(str(file.relative_to(_ROOT)).encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def demo_servers(
    tmp_path_factory: pytest.TempPathFactory, tables: Path, demo_repository: Path
) -> Iterator[Callable[[str | None], RunningServer]]:
    """Return the server of the demo models on a front; those that were started stay, as tests of both alternate."""
    started: dict[str | None, RunningServer] = {}
    with ExitStack() as stack:

        def on(front: str | None) -> RunningServer:
            if front not in started:
                settle(tables)
                log = tmp_path_factory.mktemp("demo") / "log"
                cached = {"RESONNX_CACHE_DIR": str(tables)}
                server = running(demo_repository, log=log, front=front, environment=cached)
                started[front] = stack.enter_context(server)
            return started[front]

        yield on


@pytest.fixture(scope="session")
def demo_server(demo_servers: Callable[[str | None], RunningServer], grpc_front: str | None) -> RunningServer:
    """A server of the demo models, shared by all tests that do not harm it."""
    return demo_servers(grpc_front)


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 held-out pictures, half of each model, with truth.json."""
    folder = shared_folder(tmp_path_factory) / "samples"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            partial = str(folder.with_suffix(".partial"))
            command = [sys.executable, "-m", "resonnx_export", "demo", "--samples", partial, "--count", "24"]
            subprocess.run([*command, "--seed", "7"], check=True, timeout=120)
            Path(partial).rename(folder)
    return folder


@pytest.fixture(scope="session")
def truth(samples: Path) -> dict[str, dict[str, str]]:
    """truth.json of `samples`."""
    content: dict[str, dict[str, str]] = json.loads((samples / "truth.json").read_text())
    return content


@pytest.fixture(scope="session")
def perf_analyzer() -> list[str]:
    """The start of a command that runs perf_analyzer, of the wheel that has it, installed once beside what make makes.

    The tests' own tritonclient is later than the last one with the program.
    """
    folder = _ROOT / ".make/perf_analyzer"
    program = folder / "bin/perf_analyzer"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not program.exists():
            partial = folder.with_suffix(".partial")
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(partial)]
            subprocess.run([*command, *_PERF_ANALYZER], check=True, timeout=300)
            partial.rename(folder)
    started = ["env", f"LD_LIBRARY_PATH={folder}/nvidia/cuda_runtime/lib", str(program)]
    said = subprocess.run([*started, "--version"], capture_output=True, text=True).stderr
    if "error while loading shared libraries" in said:
        pytest.skip(f"needs libb64 (on Debian libb64-0d): {said.strip()}")
    return started


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """A folder with the packages of Node that tests use, installed once beside the other things that make makes."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("needs Node.js and npm")
    folder = _ROOT / ".make/node"
    wanted = (_ROOT / "tests/proto/node/package.json").read_text()
    installed = folder / "installed.json"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not installed.exists() or installed.read_text() != wanted:
            (folder / "package.json").write_text(wanted)
            # No package's own scripts are run.
            command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
            subprocess.run(command, cwd=folder, check=True, timeout=100)
            installed.write_text(wanted)
    return folder
