"""Writes records to files of one folder on a thread of its own, within a limit of bytes.

Each file is a JSON array at any time.
"""

import json
import logging
import os
import re
import stat
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

_log = logging.getLogger(__name__)

Record = Mapping[str, Any]

# Letters, digits and few signs: no path, no hidden file, no trick with a terminal.
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", re.ASCII)
# Records that wait for the thread: more are dropped.
_MOST_WAITING: Final = 10_000
_AT_ONCE: Final = 256
_MOST_FILES: Final = 1_000
_LAST_S: Final = 5.0
# macOS has no O_PATH.
_OPEN_FOLDER: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_END: Final = b"]\n"


class BadTraceFile(Exception):
    """A file that cannot be used. The message is for callers: it has no path."""


class TraceFiles:
    """The files of a folder.

    Args:
        folder: The folder; it must exist.
        max_bytes: Limit of all that is written while the process lives.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._left = max_bytes
        self._files: dict[str, _File] = {}
        self._waiting: SimpleQueue[tuple[str, Sequence[Record]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._has_dropped = False

    def check(self, name: str) -> None:
        """Raise BadTraceFile unless records can be written to a file of this name."""
        if _NAME.fullmatch(name) is None:
            raise BadTraceFile("a name of 1 to 100 letters, digits, '.', '_' and '-' is needed, of a file in trace_dir")
        if name not in self._files:
            try:
                os.close(_open(self._folder, name))
            except OSError as error:
                raise BadTraceFile(f"{name!r} cannot be written in trace_dir: {error.strerror}") from None

    def put(self, name: str, records: Sequence[Record]) -> None:
        """Append records to a file whose name was checked, soon. Event loop only."""
        if self._waiting.qsize() >= _MOST_WAITING:
            self._drop("they are made faster than they are written")
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="traces", daemon=True)
            self._thread.start()
        self._waiting.put((name, records))

    def close(self) -> None:
        """Write what waits, and end; takes a few seconds at most."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(_LAST_S)

    def _write_all(self) -> None:
        """Write until `close`; the thread's function."""
        while True:
            items = [self._waiting.get()]
            with suppress(Empty):
                while items[-1] is not None and len(items) < _AT_ONCE:
                    items.append(self._waiting.get_nowait())
            batch: dict[str, list[Sequence[Record]]] = {}
            for name, records in filter(None, items):
                batch.setdefault(name, []).append(records)
            for name, groups in batch.items():
                self._write(name, groups)
            if items[-1] is None:
                return

    def _write(self, name: str, groups: Sequence[Sequence[Record]]) -> None:
        """Append groups of records to a file, as many as the limits allow."""
        texts = []
        for records in groups:
            text = ",\n".join(json.dumps(record, separators=(",", ":")) for record in records)
            if len(text) > self._left:
                self._left = 0
                self._drop("they have reached trace_max_bytes")
                break
            self._left -= len(text)
            texts.append(text)
        if not texts:
            return
        if name not in self._files and len(self._files) >= _MOST_FILES:
            self._drop(f"they have reached {_MOST_FILES} files")
            return
        try:
            if (file := self._files.get(name)) is None:
                file = self._files[name] = _File(self._folder, name)
            file.append(",\n".join(texts).encode())
        except OSError as error:
            self._drop(f"they cannot be written: {error.strerror}")

    def _drop(self, reason: str) -> None:
        if not self._has_dropped:
            self._has_dropped = True
            _log.error("traces are dropped from now on", extra={"reason": reason})


class _File:
    """A JSON array. It is opened for each append: one of many files may be the last to be written for hours."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._size = 0

    def append(self, elements: bytes) -> None:
        """Append elements, separated by commas. Raises OSError."""
        with os.fdopen(_open(self._folder, self._name), "r+b") as file:
            if not self._size:
                file.truncate()
            # In place of the bracket at the end.
            start = max(self._size - len(_END), 0)
            file.seek(start)
            file.write((b",\n" if self._size else b"[") + elements + _END)
            self._size = file.tell()


def _open(folder: Path, name: str) -> int:
    """Open a file of traces, or one that does not exist yet. Raises OSError for any other file."""
    within = os.open(folder, _OPEN_FOLDER)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(name, flags, 0o640, dir_fd=within)
    finally:
        os.close(within)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or os.pread(descriptor, 2, 0) not in (b"", b"[{"):
            raise OSError(0, "there is another file of this name, which is not overwritten")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
