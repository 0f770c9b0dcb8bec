"""Traces of requests: which are sampled, by settings of all models and of single ones, and what a trace tells.

Names of settings and of stages are Triton's. Times are monotonic, in ns. Event loop only.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

from resonnx_server.errors import InvalidInput, NotSupported
from resonnx_server.observe.stats import Timing
from resonnx_server.observe.trace_files import BadTraceFile, Record, TraceFiles
from resonnx_server.observe.transfer import TRANSFER, Times

_UNLIMITED: Final = -1


class Frontend(Enum):
    """The interface that a request came through; its value names the stages before and after the request's own."""

    GRPC = ("GRPC_WAITREAD_START", "GRPC_WAITREAD_END", "GRPC_SEND_START", "GRPC_SEND_END")
    HTTP = ("HTTP_RECV_START", "HTTP_RECV_END", "HTTP_SEND_START", "HTTP_SEND_END")


@dataclass(frozen=True)
class TraceSettings:
    """Settings of traces.

    Attributes:
        is_on: Requests are traced: the level `TIMESTAMPS`.
        rate: One of so many requests is traced; at least 1.
        count: How many are still traced; -1 for no limit.
        log_frequency: Traces in a file, whose name then ends with a number; 0 for one file of all.
        file: Name of the file, in the folder for traces.
    """

    is_on: bool = False
    rate: int = 1000
    count: int = _UNLIMITED
    log_frequency: int = 0
    file: str = "trace.json"


class _Sampler:
    """Chooses requests by settings that are in force.

    Attributes:
        settings: The settings.
        left: How many requests are still traced; -1 for no limit.
    """

    def __init__(self, settings: TraceSettings) -> None:
        self.settings = settings
        self.left = settings.count
        self._seen = 0

    @property
    def is_on(self) -> bool:
        """Whether requests are still traced."""
        return self.settings.is_on and self.left != 0

    def takes_next(self) -> bool:
        """Whether the next request is traced."""
        self._seen += 1
        if not self.is_on or self._seen % self.settings.rate:
            return False
        self.left -= self.left > 0
        return True


class Trace:
    """A request that is traced.

    Args:
        traces: Takes the records.
        file: Where they go.
        number: Its number in the process.
        model: The model's name and version.
        frontend: Where the request came from.

    Attributes:
        request_id: The caller's id of the request; empty if it gave none.
    """

    def __init__(self, traces: "Traces", file: str, number: int, model: tuple[str, int], frontend: Frontend) -> None:
        self._traces, self._file, self._number, self._model, self._frontend = traces, file, number, model, frontend
        self.request_id = ""

    def end(self, start_ns: int, end_ns: int, decoded: tuple[int, int] | None, timing: Timing | None) -> None:
        """Write it; if the times of its transfer are noted, when the call is over.

        Args:
            start_ns: When the request had been received.
            end_ns: When its answer was ready, or it had failed.
            decoded: When the decoding of its pictures began, and its time; None if nothing was decoded.
            timing: Its time in the engine; None if it failed before.
        """
        stages = [("REQUEST_START", start_ns)]
        if decoded is not None:
            stages += [("DECODE_START", decoded[0]), ("DECODE_END", sum(decoded))]
        if timing is not None:
            at = timing.start_ns - timing.queue_ns
            stages.append(("QUEUE_START", at))
            for name, ns in (
                ("COMPUTE_START", timing.queue_ns),
                ("COMPUTE_INPUT_END", timing.compute_input_ns),
                ("COMPUTE_OUTPUT_START", timing.compute_infer_ns),
                ("COMPUTE_END", timing.compute_output_ns),
            ):
                at += ns
                stages.append((name, at))
        stages.append(("REQUEST_END", end_ns))
        transfer = TRANSFER.get()
        if transfer is not None:
            transfer.tell(partial(self._write, stages))
        else:
            # Unknown stages take no time. They are written, as trace_summary leaves out traces without them.
            self._write(stages, (start_ns, start_ns), (end_ns, end_ns))

    def _write(self, stages: list[tuple[str, int]], received: Times, sent: Times | None) -> None:
        names = self._frontend.value
        stages = [*zip(names[:2], received, strict=True), *stages]
        if sent is not None:
            stages += zip(names[2:], sent, strict=True)
        name, version = self._model
        about: dict[str, Any] = {"id": self._number, "model_name": name, "model_version": version}
        if self.request_id:
            about["request_id"] = self.request_id
        times = [{"name": stage, "ns": ns} for stage, ns in stages]
        self._traces.write(self._file, about, {"id": self._number, "timestamps": times})


class Traces:
    """The traces of a server.

    Args:
        folder: Folder of the files; None if none may be written.
        max_bytes: Limit of all files together.

    Attributes:
        is_on: Requests of some model are traced. Looked at for each request: nothing else is done if it is false.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int = 0) -> None:
        self._files = None if folder is None else TraceFiles(folder, max_bytes)
        self._all = _Sampler(TraceSettings())
        # By model: the settings that are its own, and its sampler.
        self._own: dict[str, dict[str, Any]] = {}
        self._samplers: dict[str, _Sampler] = {}
        self._numbers = count(1)
        # Traces of files with numbers, by their names without.
        self._numbered: Counter[str] = Counter()
        self.is_on = False

    @property
    def are_possible(self) -> bool:
        """Whether there is a folder for them."""
        return self._files is not None

    def begin(self, name: str, version: int, frontend: Frontend) -> Trace | None:
        """Return the trace of a request that begins now; None if it is not traced."""
        sampler = self._samplers.get(name, self._all)
        if not sampler.takes_next():
            return None
        file, every = sampler.settings.file, sampler.settings.log_frequency
        if every:
            self._numbered[file] += 1
            file = f"{file}.{(self._numbered[file] - 1) // every}"
        if not sampler.is_on:
            self._switch()
        return Trace(self, file, next(self._numbers), (name, version), frontend)

    def settings(self, model: str = "") -> TraceSettings:
        """Return the settings of a model, or those of all models; `count` is what is left."""
        sampler = self._samplers.get(model, self._all)
        return replace(sampler.settings, count=sampler.left)

    def change(self, changes: Mapping[str, Any], model: str = "") -> None:
        """Change settings of a model, or of all models, except those that a model has of its own.

        Args:
            changes: New values by attribute of TraceSettings; None for the default, or for that of all models.
            model: The model's name; empty for all.

        Raises:
            NotSupported: They switch traces on, and there is no folder for them.
            InvalidInput: The file cannot be used.
        """
        if model:
            own = _given({**self._own.get(model, {}), **changes})
            settings = replace(self.settings(), **own)
            self._check(settings)
            self._own.pop(model, None)
            self._samplers.pop(model, None)
            if own:
                self._own[model], self._samplers[model] = own, _Sampler(settings)
        else:
            settings = TraceSettings(**_given({**vars(self.settings()), **changes}))
            self._check(settings)
            self._all = _Sampler(settings)
            for name, own in self._own.items():
                if (followed := replace(settings, **own)) != self._samplers[name].settings:
                    self._samplers[name] = _Sampler(followed)
        self._switch()

    def write(self, file: str, *records: Record) -> None:
        """Append records to a file."""
        assert self._files is not None
        self._files.put(file, records)

    def close(self) -> None:
        """Write what waits to be written, within a few seconds."""
        if self._files is not None:
            self._files.close()

    def _check(self, settings: TraceSettings) -> None:
        """Raise unless traces with these settings can be written, or are off."""
        if not settings.is_on:
            return
        if self._files is None:
            raise NotSupported("this server writes no traces (trace_dir)")
        try:
            self._files.check(f"{settings.file}.0" if settings.log_frequency else settings.file)
        except BadTraceFile as fault:
            raise InvalidInput("settings['trace_file']", str(fault)) from None

    def _switch(self) -> None:
        self.is_on = self._all.is_on or any(sampler.is_on for sampler in self._samplers.values())


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}
