"""Keeps measured latency tables between starts, by file digest, provider, precision, threads and hardware."""

import hashlib
import json
import logging
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Self

import onnxruntime as ort

from resonnx_server.engine.measurement import Measured
from resonnx_server.runtime.host import gpu_models, processor_model
from resonnx_server.runtime.session import Session

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableCache:
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
                folder.mkdir(parents=True, exist_ok=True)
                with TemporaryFile(dir=folder):
                    pass
            except OSError as error:
                _log.warning("cache_dir cannot be used", extra={"folder": str(folder), "error": error.strerror})
                folder = None
        return cls(folder, threads)

    def get(self, digest: str, session: Session, sizes: tuple[int, ...], callers: int) -> dict[int, Measured] | None:
        """Return what was measured of exactly `sizes` with so many batches at once on such a session, if known."""
        if self.folder is None:
            return None
        try:
            stored = json.loads(self._path(digest, session, sizes, callers).read_text())
            measured = {int(size): Measured(float(median), float(spread)) for size, (median, spread) in stored.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return None
        sound = all(each.median_ns > 0 and each.spread_ns >= 0 for each in measured.values())
        return measured if tuple(measured) == sizes and sound else None

    def put(self, digest: str, session: Session, measured: dict[int, Measured], callers: int) -> None:
        """Keep a measured table."""
        if self.folder is None:
            return
        path = self._path(digest, session, tuple(measured), callers)
        try:
            staged = path.with_suffix(f".{os.getpid()}")
            staged.write_text(json.dumps({size: (each.median_ns, each.spread_ns) for size, each in measured.items()}))
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
