"""Latency cache: measured tables and choices on disk, by file, provider, precision, threads, hardware and server."""

import hashlib
import json
import logging
import math
import os
import platform
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final, Self

import onnxruntime as ort

from resonnx_server import __version__
from resonnx_server.runtime.machine.host import gpu_models, processor_model
from resonnx_server.runtime.providers.installed import runtime_distribution
from resonnx_server.runtime.session import Session
from resonnx_server.scheduling.measurement import Measured

_log = logging.getLogger(__name__)

_NONE: Final = Path("none")
_FOLDER: Final = "resonnx"
# After so many disturbed measurements, their minima and choices are accepted.
_MOST_DOUBTS: Final = 3
# Of files of choices: raised when other candidates are compared, or by another measure, so that choices are made anew.
_FORMAT: Final = 1
# What reading a file raises that is damaged, or of another kind: Infinity is no int, and lists nest too deeply.
_DAMAGED: Final = (OSError, ValueError, AttributeError, TypeError, KeyError, OverflowError, RecursionError)


def cache_folder(asked: Path | None, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the cache folder; None for no cache.

    Args:
        asked: The setting: None stands for the user's cache folder, "none" for no cache.
        environment: Variables that locate the user's cache folder (XDG Base Directory Specification).
    """
    if asked is not None:
        return None if asked == _NONE else asked
    # The specification says to ignore relative paths.
    if (base := Path(environment.get("XDG_CACHE_HOME", ""))).is_absolute():
        return base / _FOLDER
    try:
        return Path.home() / ".cache" / _FOLDER
    except RuntimeError:
        _log.warning("latency tables are not cached: cache_dir is not set, and the user has no home folder")
        return None


@dataclass(frozen=True)
class CachedTable:
    """A measured table.

    Attributes:
        costs: Costs by batch size.
        doubts: Number of measurements, all disturbed by other load on the processors; 0 after an undisturbed one.
    """

    costs: dict[int, Measured]
    doubts: int = 0

    @property
    def is_doubtful(self) -> bool:
        """Whether to measure again; not for ever, as some machines are always disturbed."""
        return 0 < self.doubts < _MOST_DOUBTS


@dataclass(frozen=True)
class CachedChoice:
    """A choice between candidates.

    Attributes:
        chosen: What was chosen.
        doubts: Number of races, all disturbed by other load on the processors or unsettled; 0 after another one.
    """

    chosen: tuple[str | int, ...]
    doubts: int = 0

    @property
    def is_doubtful(self) -> bool:
        """As of CachedTable."""
        return 0 < self.doubts < _MOST_DOUBTS


@dataclass(frozen=True)
class LatencyCache:
    """Tables and choices on disk. An unreadable file counts as missing; a failed write is logged.

    Attributes:
        folder: The folder, which also holds TensorRT's engines; None for no cache.
        threads: Number of cores that the server may use.
    """

    folder: Path | None
    threads: int

    @classmethod
    def open(cls, folder: Path | None, threads: int) -> Self:
        """Return a cache in `folder`; if it is not writable, log a warning and cache nothing."""
        if folder is not None:
            try:
                # For the owner only, as TensorRT's engines are code.
                folder.mkdir(0o700, parents=True, exist_ok=True)
                with TemporaryFile(dir=folder):
                    pass
            except OSError as error:
                _log.warning("cache_dir cannot be used", extra={"folder": str(folder), "error": error.strerror})
                folder = None
        return cls(folder, threads)

    def get(self, digest: str, session: Session, sizes: tuple[int, ...], callers: int) -> CachedTable | None:
        """Return the table of exactly these sizes, for `callers` concurrent batches on such a session, if cached."""
        if self.folder is None:
            return None
        try:
            stored = json.loads(self._path(digest, session, sizes, callers).read_text())
            costs = {int(size): Measured(float(ns), float(spread)) for size, (ns, spread) in stored["costs"].items()}
            doubts = int(stored["doubts"])
        except _DAMAGED:
            return None
        sound = all(0 < each.median_ns < math.inf and 0 <= each.spread_ns < math.inf for each in costs.values())
        return CachedTable(costs, doubts) if tuple(costs) == sizes and sound and doubts >= 0 else None

    def put(self, digest: str, session: Session, table: CachedTable, callers: int) -> None:
        """Store a measured table; a disturbed one takes the place of none beyond doubt."""
        if self.folder is None:
            return
        if table.doubts and (kept := self.get(digest, session, tuple(table.costs), callers)) and not kept.doubts:
            return
        path = self._path(digest, session, tuple(table.costs), callers)
        costs = {size: (each.median_ns, each.spread_ns) for size, each in table.costs.items()}
        self._write(path, {"costs": costs, "doubts": table.doubts})

    def choice(self, between: str) -> CachedChoice | None:
        """Return a choice, if it is cached; `between` names the files, their candidates and how they were compared."""
        if self.folder is None:
            return None
        try:
            stored = json.loads(self._choice_path(between).read_text())
            chosen, doubts = tuple(stored["chosen"]), int(stored["doubts"])
        except _DAMAGED:
            return None
        sound = all(isinstance(each, str | int) for each in chosen)
        return CachedChoice(chosen, doubts) if sound and doubts >= 0 else None

    def keep_choice(self, between: str, choice: CachedChoice) -> None:
        """Store a choice; a doubtful one takes the place of none beyond doubt."""
        if self.folder is None:
            return
        if choice.doubts == 0 or (kept := self.choice(between)) is None or kept.doubts:
            self._write(self._choice_path(between), {"chosen": choice.chosen, "doubts": choice.doubts})

    def _write(self, path: Path, content: dict[str, object]) -> None:
        staged = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        try:
            staged.write_text(json.dumps(content))
            staged.replace(path)
        except OSError as error:
            # What a full disk has left of it.
            with suppress(OSError):
                staged.unlink(missing_ok=True)
            _log.warning(
                "a measurement could not be cached", extra={"folder": str(self.folder), "error": error.strerror}
            )

    @cached_property
    def _hardware(self) -> str:
        # Once, as it reads the packages' metadata.
        return _hardware()

    def _choice_path(self, between: str) -> Path:
        assert self.folder is not None
        what = f"{_FORMAT} {between} {self.threads} {self._hardware}"
        return self.folder / f"choice-{hashlib.sha256(what.encode()).hexdigest()[:32]}.json"

    def _path(self, digest: str, session: Session, sizes: tuple[int, ...], callers: int) -> Path:
        assert self.folder is not None
        how = f"{session.candidate} {session.threads} {session.spinning}"
        if session.view is not None:
            how += f" {session.view.inputs}"
        what = f"{digest} {how} {sizes} {callers} {self.threads} {self._hardware}"
        return self.folder / f"latency-{hashlib.sha256(what.encode()).hexdigest()[:32]}.json"


def _hardware() -> str:
    """Return what decides a session's speed: processor, GPUs, versions of the runtimes and of the server."""
    plugin = ""
    with suppress(PackageNotFoundError):
        plugin = version("onnxruntime-ep-openvino")
    runtimes = ("resonnx", __version__, runtime_distribution()[0], ort.__version__, "openvino", plugin)
    return " ".join((platform.machine(), processor_model(), *runtimes, *gpu_models()))
