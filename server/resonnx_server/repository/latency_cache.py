"""Keeps measured latency tables between starts, by file digest, provider, precision, threads and hardware."""

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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final, Self

import onnxruntime as ort

from resonnx_server.runtime.machine.host import gpu_models, processor_model
from resonnx_server.runtime.session import Session
from resonnx_server.scheduling.measurement import Measured

_log = logging.getLogger(__name__)

_NONE: Final = Path("none")
_FOLDER: Final = "resonnx"
# Disturbed measurements after which the least of each size is taken for what it costs here.
_MOST_DOUBTS: Final = 3


def cache_folder(asked: Path | None, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder to keep tables in.

    Args:
        asked: By the settings: None leaves it to the user's cache folder, and "none" keeps nothing.
        environment: Says where that folder is (XDG Base Directory Specification).
    """
    if asked is not None:
        return None if asked == _NONE else asked
    # A relative path is to be ignored, by the specification.
    if (base := Path(environment.get("XDG_CACHE_HOME", ""))).is_absolute():
        return base / _FOLDER
    try:
        return Path.home() / ".cache" / _FOLDER
    except RuntimeError:
        _log.warning("no cache_dir is given and this user has no home: what is measured is not kept")
        return None


@dataclass(frozen=True)
class Kept:
    """A measured table.

    Attributes:
        costs: By batch size.
        doubts: How often it was measured while something else held the processors; 0 if it once was not.
    """

    costs: dict[int, Measured]
    doubts: int = 0

    @property
    def is_doubtful(self) -> bool:
        """It should be measured again; not at every start for ever, as on some machines there is always company."""
        return 0 < self.doubts < _MOST_DOUBTS


@dataclass(frozen=True)
class LatencyCache:
    """Latency tables on disk. Best effort: what cannot be read is measured, what cannot be written is not kept.

    Attributes:
        folder: None keeps nothing. TensorRT's engines are kept there, too (see Session).
        threads: Cores that the server may use.
    """

    folder: Path | None
    threads: int

    @classmethod
    def open(cls, folder: Path | None, threads: int) -> Self:
        """Return a cache in `folder`, or one that keeps nothing where nothing can be written, after one warning."""
        if folder is not None:
            try:
                # TensorRT's engines, which are kept there, are code.
                folder.mkdir(0o700, parents=True, exist_ok=True)
                with TemporaryFile(dir=folder):
                    pass
            except OSError as error:
                _log.warning("cache_dir cannot be used", extra={"folder": str(folder), "error": error.strerror})
                folder = None
        return cls(folder, threads)

    def get(self, digest: str, session: Session, sizes: tuple[int, ...], callers: int) -> Kept | None:
        """Return what was measured of exactly `sizes` with so many batches at once on such a session, if known."""
        if self.folder is None:
            return None
        try:
            stored = json.loads(self._path(digest, session, sizes, callers).read_text())
            costs = {int(size): Measured(float(ns), float(spread)) for size, (ns, spread) in stored["costs"].items()}
            doubts = int(stored["doubts"])
        except (OSError, ValueError, AttributeError, TypeError, KeyError):
            return None
        sound = all(0 < each.median_ns < math.inf and 0 <= each.spread_ns < math.inf for each in costs.values())
        return Kept(costs, doubts) if tuple(costs) == sizes and sound and doubts >= 0 else None

    def put(self, digest: str, session: Session, kept: Kept, callers: int) -> None:
        """Keep a measured table."""
        if self.folder is None:
            return
        path = self._path(digest, session, tuple(kept.costs), callers)
        costs = {size: (each.median_ns, each.spread_ns) for size, each in kept.costs.items()}
        try:
            staged = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
            staged.write_text(json.dumps({"costs": costs, "doubts": kept.doubts}))
            staged.replace(path)
        except OSError as error:
            _log.warning(
                "a latency table could not be kept", extra={"folder": str(self.folder), "error": error.strerror}
            )

    def _path(self, digest: str, session: Session, sizes: tuple[int, ...], callers: int) -> Path:
        assert self.folder is not None
        how = f"{session.candidate} {session.threads} {session.spinning}"
        what = f"{digest} {how} {sizes} {callers} {self.threads} {_hardware()}"
        return self.folder / f"latency-{hashlib.sha256(what.encode()).hexdigest()[:32]}.json"


def _hardware() -> str:
    """Name what decides how fast a session runs here: processor, GPUs, and the runtimes' versions."""
    plugin = ""
    with suppress(PackageNotFoundError):
        plugin = version("onnxruntime-ep-openvino")
    runtimes = ("onnxruntime", ort.__version__, "openvino", plugin)
    return " ".join((platform.machine(), processor_model(), *runtimes, *gpu_models()))
