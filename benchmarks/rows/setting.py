"""The state that all rows share: models, a running server, the load generator, and this round's floors."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from floor.ways import Measured, Way, all_ways, single_ways
from floor.ways import measure as measure_ways
from load.generator import Generator, Outcome
from load.server_process import Serving, serving
from pictures.photographs import write_pictures
from resonnx import Client, ModelInfo
from resonnx_server.runtime.machine.host import usable_cores

# The server keeps its default of 16 rows a batch, though the floor may be best with 32: so served, 32 callers leave
# nothing for a second batch beside the first, and got 1 to 20 % less.
CALLERS = {"big": 16, "small": 32}

# Ways of the first round that every round measures: a short trial does not tell close ones apart.
_FINALISTS = 3

T = TypeVar("T")


class Setting:
    """One run of the benchmark. A context manager: the shared server ends with it.

    Args:
        models: A model repository with all models.
        big: The name of the ResNet-50 that is measured.
        generator: Sends the load.
    """

    def __init__(self, models: Path, big: str, generator: Generator) -> None:
        self.models = models
        self.generator = generator
        self.names = {"big": big, "small": "small", "big_float": f"{big}_float", "big_fp32": "resnet50"}
        self.cores = usable_cores()
        self.ways: dict[str, list[Way]] = {}
        self._round: dict[str, Any] = {}
        self._always: dict[str, Any] = {}
        self._closing = ExitStack()

    def __enter__(self) -> "Setting":
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def begin_round(self) -> None:
        """Discard the measurements of the last round; the machine's own figures are kept."""
        self._round.clear()

    @cached_property
    def folder(self) -> Path:
        """A folder for the benchmark's own files."""
        return Path(self._closing.enter_context(tempfile.TemporaryDirectory()))

    @cached_property
    def pictures(self) -> list[Path]:
        """JPEG files."""
        return write_pictures(self.folder)

    @cached_property
    def server(self) -> Serving:
        """The server that most rows share; it serves the three models that are measured as they come."""
        names = [self.names[role] for role in ("big", "small", "big_float")]
        # A bare graph has no choice of provider: it gets the one that a server chose for the model it was cut from.
        with self.serving(names[:1]) as first:
            provider = _flag(self.info("big", first.grpc))
        config = self.folder / "shared.toml"
        config.write_text(f'[models.{names[2]}]\nprovider = "{provider}"\n')
        return self._closing.enter_context(self.serving(names, "--config", str(config)))

    @contextmanager
    def serving(self, names: Sequence[str], *flags: str, runner: Sequence[str] = ()) -> Iterator[Serving]:
        """Serve some of the models by a server of their own; latency tables are cached between servers."""
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                (Path(folder) / name).symlink_to((self.models / name).resolve())
            with serving(Path(folder), "--cache-dir", str(self.models / ".cache"), *flags, runner=runner) as server:
                yield server

    def info(self, role: str, server: str | None = None) -> ModelInfo:
        """Return the server's description of a model."""
        with Client(server or self.server.grpc) as client:
            return client.model(self.names[role])

    def floor(self, role: str) -> Measured:
        """Return this round's floor of a model: the best of the few ways that were best when all were tried."""
        session = self.info(role).sessions[0]
        file = self.models / self.names[role] / "1" / session.file

        def measure() -> Measured:
            if role not in self.ways:
                tried = self._measure(file, session.provider, session.precision, None, 1.0)
                tried.sort(key=lambda measured: measured.rate, reverse=True)
                self.ways[role] = [measured.way for measured in tried[:_FINALISTS]]
            seconds = self.generator.seconds / 2
            again = self._measure(file, session.provider, session.precision, self.ways[role], seconds)
            return max(again, key=lambda measured: measured.rate)

        return self.once(f"floor {role}", measure)

    def alone_ms(self, role: str) -> float:
        """Return this round's floor of latency: the time of one picture alone, in ms."""
        session = self.info(role).sessions[0]
        file = self.models / self.names[role] / "1" / session.file

        def measure() -> float:
            ways = single_ways(session.provider, self.cores)
            tried = self._measure(file, session.provider, session.precision, ways, 1.0)
            return min(measured.run_ms for measured in tried)

        return self.once(f"alone {role}", measure)

    def peak(self, role: str, *, stream: bool = False) -> Outcome:
        """Return this round's throughput of a model at its usual concurrency, with tensors."""
        callers = CALLERS[role.removesuffix("_float")]

        def measure() -> Outcome:
            return self.generator.closed(self.server.grpc, self.names[role], callers, stream=stream)

        return self.once(f"peak {role} {stream}", measure)

    def once(self, key: str, measure: Callable[[], T]) -> T:
        """Measure, or return the value measured under `key` in this round."""
        if key not in self._round:
            self._round[key] = measure()
        found: T = self._round[key]
        return found

    def once_for_all(self, key: str, measure: Callable[[], T]) -> T:
        """Measure, or return the value measured under `key` in any round."""
        if key not in self._always:
            self._always[key] = measure()
        found: T = self._always[key]
        return found

    def _measure(
        self, file: Path, provider: str, precision: str, ways: Sequence[Way] | None, seconds: float
    ) -> list[Measured]:
        return measure_ways(file, provider, precision, ways or all_ways(provider, self.cores), seconds)


def _flag(info: ModelInfo) -> str:
    """Return the name by which `--provider` takes the provider that a model runs on."""
    provider = info.sessions[0].provider
    return {"CPUExecutionProvider": "cpu", "OpenVINOExecutionProvider": "openvino", "CUDAExecutionProvider": "cuda"}[
        provider
    ]
