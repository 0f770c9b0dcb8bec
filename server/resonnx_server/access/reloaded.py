"""A value that is read from files, and read again when they change."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)

# Time between two checks.
POLL_S: Final = 1.0
# A file that was changed within this time may still be being written: half of it could be valid.
SETTLED_S: Final = 1.0

# Of each file: its device, inode, size and time of change; None for one that cannot be found.
Signature = tuple[tuple[int, int, int, int] | None, ...]


class Reloaded(Generic[T]):
    """The value, which is replaced as a whole. Files that cannot be read, or do not fit together, leave it as it is.

    Args:
        paths: The files. Links are followed: Kubernetes replaces the target of one.
        read: Reads the value; called on any thread.

    Attributes:
        value: The latest that could be read.

    Raises:
        Exception: That of `read`, if the value cannot be read at first.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        self._paths = paths
        self._read = read
        self._signature = self._look()
        self.value = read()
        self._is_settled = self._look() == self._signature

    def refresh(self) -> None:
        """Read the value again if a file has changed, but not within the last second. Blocks while it reads."""
        before = self._look()
        if before == self._signature and self._is_settled:
            return
        now_ns = time.time_ns()
        if any(file is not None and 0 <= now_ns - file[-1] < SETTLED_S * 1e9 for file in before):
            return
        try:
            value = self._read()
        except Exception as error:
            if before != self._signature:
                # One line for each change, however long the file stays as it is.
                _log.error("changed files cannot be used; the former stay in force", extra={"why": str(error)})
            self._signature, self._is_settled = before, True
            return
        # A file that is being written is read again at the next check.
        self._signature, self._is_settled = before, self._look() == before
        if self._is_settled:
            self.value = value
            _log.info("read changed files", extra={"files": [str(path) for path in self._paths]})

    def _look(self) -> Signature:
        return tuple(map(_signature, self._paths))


def _signature(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


async def keep_fresh(values: Sequence[Reloaded[Any]], poll_s: float = POLL_S) -> None:
    """Refresh values until cancelled, beside the event loop."""
    while values:
        await asyncio.sleep(poll_s)
        for value in values:
            await asyncio.to_thread(value.refresh)
