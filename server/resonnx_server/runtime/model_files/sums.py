"""Reads the files that SHA256SUMS lists, and remembers the sums of what was read.

What is served is summed from the bytes that are served. Remembered sums are for comparisons of folders only.
"""

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.external_data import with_external_data
from resonnx_server.runtime.model_files.files import MAX_FILE_BYTES, ModelUnreadable, NotReadable, read_regular
from resonnx_server.runtime.model_files.signatures import SIGNATURES

MANIFEST: Final = "manifest.json"
SUMS: Final = "SHA256SUMS"
MAX_MANIFEST_BYTES: Final = 16 << 20
_MAX_SUMS_BYTES: Final = 1 << 20
# Called with the sha256 of SHA256SUMS before a listed file is read; raises ModelRefused.
Vouch = Callable[[str], object]

# Device, inode, size, times of the last change of content and of status.
_State = tuple[int, int, int, int, int]

# A later change may leave a file's times as they are if they are no older: clocks of file systems are that coarse.
_COARSE_NS: Final = 2_000_000_000
# Files; the sums of the earliest are forgotten.
_MOST: Final = 10_000

_sums: dict[_State, bytes] = {}
# Several loads read at once.
_lock = threading.Lock()


def sha256sums(files: dict[str, bytes]) -> bytes:
    """Return the text of a SHA256SUMS file (`sha256sum -c` reads it) for `files`, sorted by name."""
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)).encode()


def accept_any(identity: str) -> None:
    """Vouch for any version."""


class Listed(NamedTuple):
    """The files that SHA256SUMS lists.

    Attributes:
        identity: Its own sha256, hex.
        files: Their content by name; ONNX files hold their external data.
        sums: Their sha256, hex, as far as it is that of the content.
    """

    identity: str
    files: dict[str, bytes]
    sums: dict[str, str]


def read_listed(folder: Path, vouch: Vouch = accept_any) -> Listed:
    """Read and check the files that SHA256SUMS lists.

    `vouch` gets its sha256 before any file is read. External data of ONNX files must be listed as well.

    Raises:
        ModelRefused: SHA256SUMS is missing or malformed; or a file is missing, not regular, too large, damaged or not
            listed.
    """
    try:
        sums = read_regular(folder / SUMS, _MAX_SUMS_BYTES)
        present = {entry.name for entry in folder.iterdir() if entry.name not in (SUMS, SIGNATURES)}
    except OSError:
        raise ModelUnreadable(f"{SUMS} is missing or cannot be read") from None
    except NotReadable as error:
        raise ModelRefused(f"{SUMS} {error}") from None
    identity = hashlib.sha256(sums).hexdigest()
    vouch(identity)
    expected = _parse_sums(sums)
    if unlisted := sorted(present - expected.keys()):
        raise ModelRefused(f"{unlisted[0]!r} is not listed in {SUMS}")
    files: dict[str, bytes] = {}
    for name, digest in expected.items():
        try:
            content, found = read_summed(folder / name, MAX_MANIFEST_BYTES if name == MANIFEST else MAX_FILE_BYTES)
        except OSError:
            raise ModelUnreadable(f"{name!r} is listed in {SUMS} and is missing or cannot be read") from None
        except NotReadable as error:
            raise ModelRefused(f"{name!r} {error}") from None
        if found.hex() != digest:
            raise ModelRefused(f"{name!r} is damaged: its sha256 is not the one in {SUMS}")
        files[name] = content

    def listed(name: str, _: int) -> bytes:
        if name not in files:
            raise ModelRefused(f"the external data {name[:200]!r} is not listed in {SUMS}")
        return files[name]

    whole = {name: with_external_data(name, files[name], listed) for name in files if name.endswith(".onnx")}
    known = {name: digest for name, digest in expected.items() if whole.get(name, files[name]) is files[name]}
    return Listed(identity, {**files, **whole}, known)


def _parse_sums(sums: bytes) -> dict[str, str]:
    expected: dict[str, str] = {}
    for line in sums.decode("utf-8", "replace").splitlines():
        match = re.fullmatch(r"([0-9a-f]{64}) [ *]([A-Za-z0-9][A-Za-z0-9_.-]*)", line)
        if match is None:
            raise ModelRefused(f"{SUMS} has a malformed line")
        expected[match[2]] = match[1]
    return expected


def read_summed(path: Path, max_bytes: int = MAX_FILE_BYTES) -> tuple[bytes, bytes]:
    """Return a regular file's content and its sha256, and remember the sum. Thread-safe. Raises as read_regular."""
    before = _state(path.stat())
    content = read_regular(path, max_bytes)
    digest = hashlib.sha256(content).digest()
    if _state(path.stat()) == before and time.time_ns() - max(before[3:]) > _COARSE_NS:
        with _lock:
            while len(_sums) >= _MOST:
                del _sums[next(iter(_sums))]
            _sums[before] = digest
    return content, digest


def sum_of(path: Path) -> bytes:
    """Return a regular file's sha256: of its last reading, if it looks the same still. Raises as read_regular."""
    return _sums.get(_state(path.stat())) or read_summed(path)[1]


def _state(status: os.stat_result) -> _State:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
