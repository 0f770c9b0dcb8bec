"""The checks of deploy/check-gpu, in an environment that has been set up: exports, serves and compares.

The reference is the CPU provider: a second server answers the same pictures.
"""

import argparse
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import onnxruntime as ort
from resonnx import Client
from resonnx_server.runtime.model_files.manifest import STATE_ROWS_FILE
from resonnx_server.runtime.session import PROVIDERS, TENSORRT

from deploy.gpu_memory import Skipped, device_state, page_locked

_PICTURES: Final = 40
_ON_DEVICE: Final = "captions stay on the GPU between steps"
_PAGEABLE: Final = "batch buffers are pageable memory"


@dataclass(frozen=True)
class Server:
    """A running server: its address, and its log so far."""

    address: str
    log: Path


class Check:
    """Runs the checks and remembers their results.

    Args:
        provider: "cuda", or "cpu" for a dry run.
        folder: A folder for models and logs.
        seconds: Time limit for all checks.
    """

    def __init__(self, provider: str, folder: Path, seconds: float) -> None:
        self.provider, self.folder = provider, folder
        self._ends = time.monotonic() + seconds
        signal.signal(signal.SIGALRM, _time_is_up)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        self.models, self.samples = folder / "models", folder / "samples"
        self.answers: dict[str, str] = {}
        self.results: list[tuple[str, str, str]] = []

    def run(self, name: str, check: Callable[[], str]) -> None:
        """Run one check: it returns its finding, and raises if it fails."""
        began = time.monotonic()
        try:
            if began >= self._ends:
                _time_is_up()
            outcome, detail = "ok", check()
        except Skipped as skipped:
            outcome, detail = "not checked", str(skipped)
        except Exception as error:  # a report of all checks, whatever fails
            outcome, detail = "FAILED", f"{type(error).__name__}: {error}"
        self.results.append((name, outcome, detail))
        print(f"{outcome:11} {name} ({time.monotonic() - began:.0f} s): {detail}", flush=True)

    def environment(self) -> str:
        """Name GPU, driver and ONNX Runtime. Fails if ONNX Runtime has no CUDA provider."""
        installed = ort.get_available_providers()
        if PROVIDERS[self.provider] not in installed:
            raise RuntimeError(f"ONNX Runtime {ort.__version__} has only {', '.join(installed)}")
        if self.provider == "cpu":
            return f"ONNX Runtime {ort.__version__}, a dry run on the CPU provider"
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        gpu = subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
        return f"ONNX Runtime {ort.__version__}, {gpu}"

    def export(self) -> str:
        """Export the demo models; the exporter checks the row graphs."""
        export = [sys.executable, "-m", "resonnx_export", "demo"]
        _quiet([*export, "--repository", str(self.models)])
        _quiet([*export, "--samples", str(self.samples), "--count", str(_PICTURES), "--seed", "1"])
        if not (self.models / "scenes/1" / STATE_ROWS_FILE).exists():
            raise RuntimeError(f"scenes has no {STATE_ROWS_FILE}")
        return "digits and scenes, with row graphs"

    def reference(self) -> str:
        """Ask a server on the CPU provider."""
        with self.serving("cpu") as server:
            self.answers = self.ask(server)
        truth = json.loads((self.samples / "truth.json").read_text())
        right = sum(self.answers[name] == (entry.get("label") or entry["caption"]) for name, entry in truth.items())
        return f"{len(self.answers)} pictures, {right} right"

    def served(self) -> str:
        """Ask a server on the provider; sessions, answers and the log must be as they should."""
        with self.serving(self.provider) as server:
            self.expect_provider(server, PROVIDERS[self.provider])
            self.expect_answers(server)
            log = server.log.read_text()
        if self.provider == "cpu":
            return "same answers as the CPU provider"
        if _ON_DEVICE not in log:
            raise RuntimeError(f"the log does not say {_ON_DEVICE!r}: {_warnings(log)}")
        if _PAGEABLE in log:
            raise RuntimeError(f"the log says {_PAGEABLE!r}: {_warnings(log)}")
        return "same answers as the CPU provider; captions stay on the GPU; batch buffers are page-locked"

    def tensorrt(self) -> str:
        """Serve on TensorRT, twice: the second start uses the cached engines."""
        if self.provider != "cuda" or TENSORRT not in ort.get_available_providers():
            raise Skipped("ONNX Runtime has no TensorRT provider here")
        try:
            ctypes.CDLL("libnvinfer.so.10")
        except OSError:
            raise Skipped("libnvinfer.so.10 is not found; install tensorrt-cu12") from None
        starts = []
        for _ in range(2):
            began = time.monotonic()
            with self.serving("tensorrt") as server:
                starts.append(time.monotonic() - began)
                self.expect_provider(server, TENSORRT)
                self.expect_answers(server)
        if not list(self.folder.glob("cache/tensorrt-*/*")):
            raise RuntimeError("no engine was cached")
        return f"same answers as the CPU provider; ready after {starts[0]:.0f} s, with cached engines {starts[1]:.0f} s"

    def load(self) -> str:
        """Let 16 callers ask each model for a few seconds."""
        with self.serving(self.provider) as server:
            rates = [self._rate(server, model) for model in ("digits", "scenes")]
        return f"16 callers: digits {rates[0]:.0f}/s, scenes {rates[1]:.0f}/s"

    def _rate(self, server: Server, model: str) -> float:
        out = self.folder / "bench.json"
        pictures = [str(file) for file in sorted(self.samples.glob("*.png"))]
        truth = json.loads((self.samples / "truth.json").read_text())
        files = [file for file in pictures if truth[Path(file).name]["model"] == model]
        bench = [sys.executable, "-m", "resonnx", "bench", "--server", server.address, "--model", model, *files]
        _quiet([*bench, "--concurrency", "16", "--duration", "5", "--warmup", "1", "--json", str(out)])
        return float(json.loads(out.read_text())["runs"][0]["per_s"])

    def ask(self, server: Server) -> dict[str, str]:
        """Return the answer to each sample."""
        answers = {}
        with Client(server.address, timeout_s=60) as client:
            for name, entry in json.loads((self.samples / "truth.json").read_text()).items():
                file = self.samples / name
                if entry["model"] == "digits":
                    answers[name] = client.classify(file, "digits").predictions[0].label
                else:
                    answers[name] = client.caption(file, "scenes").captions[0].text
        return answers

    def expect_answers(self, server: Server) -> None:
        """Raise RuntimeError unless all answers are those of the reference."""
        found = self.ask(server)
        if differing := [name for name, answer in self.answers.items() if found[name] != answer]:
            name = differing[0]
            message = f"{len(differing)} of {len(found)} answers differ from the CPU provider's"
            raise RuntimeError(f"{message}: {name} gives {found[name]!r}, not {self.answers[name]!r}")

    def expect_provider(self, server: Server, provider: str) -> None:
        """Raise RuntimeError unless all sessions run on the provider."""
        with Client(server.address, timeout_s=60) as client:
            for model in ("digits", "scenes"):
                for session in client.model(model).sessions:
                    if session.provider != provider:
                        raise RuntimeError(f"{model}'s {session.file} runs on {session.provider}, not {provider}")

    @contextmanager
    def serving(self, provider: str) -> Iterator[Server]:
        """Serve the models until the block ends. Raises RuntimeError if the server does not start."""
        log = self.folder / f"{provider}.log"
        command = [sys.executable, "-m", "resonnx_server", "--repository", str(self.models), "--provider", provider]
        command += ["--port", "0", "--http-port", "0", "--strict", "--cache-dir", str(self.folder / "cache")]
        with (
            log.open("w") as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
        ):
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                ready = re.match(r"resonnx-server ready grpc=(\S+)", line)
                if ready is None:
                    raise RuntimeError(
                        f"the server on {provider} is not ready: {line.strip()} {_warnings(log.read_text())}"
                    )
                yield Server(ready[1], log)
            finally:
                process.terminate()


def _quiet(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:5])} failed: {(done.stderr or done.stdout)[-500:]}")


def _warnings(log: str) -> str:
    """Return the last warnings and errors of a JSON log."""
    lines = [line for line in log.splitlines() if '"warning"' in line or '"error"' in line or not line.startswith("{")]
    return " | ".join(lines[-5:])


def _time_is_up(*_: object) -> None:
    raise TimeoutError("the time is up (--minutes)")


def main() -> int:
    """Run all checks, print a report, and return the exit status."""
    parser = argparse.ArgumentParser(prog="check-gpu", description=__doc__)
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run without a GPU")
    parser.add_argument("--minutes", type=float, default=10.0, help="limit for all checks")
    given = parser.parse_args()
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with tempfile.TemporaryDirectory(prefix="resonnx-check-gpu-") as folder:
        check = Check(given.provider, Path(folder), 60 * given.minutes)
        for name, step in (
            ("environment", check.environment),
            ("export", check.export),
            ("reference on the CPU", check.reference),
            (f"serving on {given.provider}", check.served),
            ("state on the device", partial(device_state, check.models, given.provider)),
            ("page-locked memory", partial(page_locked, check.models, given.provider)),
            ("TensorRT", check.tensorrt),
            ("load", check.load),
        ):
            check.run(name, step)
    failed = [name for name, outcome, _ in check.results if outcome == "FAILED"]
    print(f"check-gpu: {'failed: ' + ', '.join(failed) if failed else 'passed'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
