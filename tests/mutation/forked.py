"""Test runs in forked processes that find the libraries already imported, so that a run starts at once."""

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import pytest

from mutation.plugins import KEPT, FirstFailure, Kept, KeptFolders

# Libraries of the server and of its tests; none of them imports a module that is mutated.
_PRELOADED: Final = (
    "google.protobuf.json_format",
    "google.rpc.error_details_pb2",
    "grpc.aio",
    "grpc_health.v1.health_pb2",
    "grpc_reflection.v1alpha.reflection_pb2",
    "hypothesis.stateful",
    "numpy",
    "onnx",
    "onnxruntime",
    "PIL.Image",
    "pydantic_settings",
    "tritonclient.grpc.aio",
)
_PACKAGES: Final = ("proto", "server", "export", "client")


@dataclass(frozen=True)
class Outcome:
    """How a run ended; `failed` is the first test that failed ("" if none was named)."""

    passed: bool
    timed_out: bool
    failed: str
    seconds: float


class ForkedTests:
    """Runs pytest in `tree`, a copy of the repository, in one forked process at a time."""

    def __init__(self, tree: Path, work: Path) -> None:
        """`work` is a folder for the kept fixtures and for each run's temporary files."""
        self._tree, self._work, self._kept = tree, work, work / "kept"
        for name in _PRELOADED:
            importlib.import_module(name)
        # Tests wait beside what else runs here.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        if not self._kept.exists():
            (self._kept / "tables").mkdir(parents=True)
            for name, options in zip(KEPT, ("--repository", "--samples"), strict=True):
                command = [sys.executable, "-m", "resonnx_export", "demo", options, str(self._kept / name)]
                command += ["--count", "24", "--seed", "7"] if name == "samples" else []
                subprocess.run(command, check=True, cwd=tree, env={**os.environ, "PYTHONPATH": self._path()})

    @property
    def has_tables(self) -> bool:
        """Whether latency tables are kept for the servers of tests."""
        return any((self._kept / "tables").iterdir())

    def run(self, tests: list[str], limit_s: float) -> Outcome:
        """Run tests until one fails, for `limit_s` at most."""
        first = self._work / "failed"
        first.unlink(missing_ok=True)
        started = time.monotonic()
        status = self.pytest(["-x", "-o", "timeout=0", *tests], [FirstFailure(first)], limit_s)
        failed = first.read_text() if first.exists() else ""
        return Outcome(status == 0, status is None, failed, time.monotonic() - started)

    def pytest(self, arguments: list[str], plugins: list[object], limit_s: float) -> int | None:
        """Return pytest's status, or None where the run was ended at its limit."""
        temporary = self._work / "temporary"
        shutil.rmtree(temporary, ignore_errors=True)
        plugins = [Kept(self._kept), KeptFolders(self._kept), *plugins]
        process = os.fork()
        if not process:
            # Plugins that are imported already keep their plain assertions.
            options = ["-q", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:cacheprovider"]
            self._child([*options, f"--basetemp={temporary}", *arguments], plugins)
        ends = time.monotonic() + limit_s
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(process, process)
        try:
            while not (ended := os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
                if time.monotonic() > ends:
                    break
                time.sleep(0.02)
        finally:
            # With servers that the run has left.
            os.killpg(process, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        return status if ended else None

    def _child(self, arguments: list[str], plugins: list[object]) -> NoReturn:
        status = 3
        try:
            os.setpgid(0, 0)
            log = os.open(self._work / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.chdir(self._tree)
            path = self._path()
            sys.path[:1] = [str(self._tree), *path.split(os.pathsep)]
            os.environ["PYTHONPATH"] = path
            status = int(pytest.main(arguments, plugins=plugins))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _path(self) -> str:
        return os.pathsep.join(str(self._tree / name) for name in _PACKAGES)
