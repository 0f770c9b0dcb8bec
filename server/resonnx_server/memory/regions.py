"""Regions of POSIX shared memory that callers have registered.

Their bytes are copied with reads and writes of the file: a mapping of a file that its owner makes shorter would end the
process (SIGBUS). A region stays open until nothing refers to it, so a request that holds it may go on after it was
unregistered.
"""

import os
import stat
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from resonnx_server.errors import AlreadyExists, InvalidInput, NotSupported, RegionNotFound

# Where Linux keeps segments of shm_open.
FOLDER: Final = Path("/dev/shm")  # noqa: S108 - not a temporary file of this process
# Each holds a descriptor.
MOST_REGIONS: Final = 128
_LONGEST_KEY: Final = 255
# Names of POSIX semaphores, which lie in the same folder: writing to one would break its users.
_SEMAPHORE: Final = "sem."
# macOS has no O_PATH.
_OPEN_FOLDER: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
# Copied at once: a fraction of a millisecond.
_PIECE_BYTES: Final = 1 << 20

Bytes = npt.NDArray[np.uint8]


class Region:
    """A part of a segment.

    Attributes:
        name: Its name, unique for its owner.
        key: The segment's name, as it was given.
        offset: Where it begins in the segment, in bytes.
        size: In bytes.
        is_writable: Whether the server may write to the segment.
    """

    def __init__(self, descriptor: int, name: str, key: str, offset: int, size: int, *, is_writable: bool) -> None:
        self._descriptor = descriptor
        self.name, self.key, self.offset, self.size, self.is_writable = name, key, offset, size, is_writable

    def __del__(self) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, size: int, field: str) -> Generator[None, None, Bytes]:
        """Return a copy of bytes of the region, in pieces; any thread.

        Args:
            offset: Where they begin in the region.
            size: Their number; both lie within the region.
            field: The request's field, for errors.

        Raises:
            InvalidInput: The segment has become too short for them.
        """
        copy = np.empty(size, np.uint8)
        view = copy.data
        done = 0
        while done < size:
            piece = view[done : done + _PIECE_BYTES]
            got = os.preadv(self._descriptor, [piece], self.offset + offset + done)
            if not got:
                raise self._shortened(field)
            done += got
            if done < size:
                yield
        return copy

    def write(self, content: bytes, offset: int, field: str) -> None:
        """Write bytes to the region; any thread.

        Args:
            content: The bytes, about a megabyte at most.
            offset: Where they begin in the region, within which they lie.
            field: The request's field, for errors.

        Raises:
            InvalidInput: The segment has become too short for them, or there is no memory for them.
        """
        start, rest = self.offset + offset, memoryview(content)
        # A write would make it as long as before. Its owner may do so at any time, so this only tells of the mistake.
        if os.fstat(self._descriptor).st_size < start + len(rest):
            raise self._shortened(field)
        while rest:
            try:
                done = os.pwrite(self._descriptor, rest, start)
            except OSError as error:
                reason = error.strerror or "an error of the system"
                raise InvalidInput(field, f"region {self.name!r} cannot be written to: {reason}") from None
            start, rest = start + done, rest[done:]

    def _shortened(self, field: str) -> InvalidInput:
        return InvalidInput(field, f"the segment {self.key!r} of region {self.name!r} has become shorter than it was")


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes of a region for one tensor.

    Attributes:
        region: The region.
        offset: Where they begin in it.
        size: Their number; they lie within the region.
        field: The request's field, for errors.
    """

    region: Region
    offset: int
    size: int
    field: str

    def read(self) -> Generator[None, None, Bytes]:
        """Return a copy of the bytes; see Region.read."""
        return self.region.read(self.offset, self.size, self.field)

    def write(self, content: bytes, at: int) -> None:
        """Write bytes that begin `at` bytes after the place's beginning; see Region.write."""
        self.region.write(content, self.offset + at, self.field)


class Regions:
    """The regions of all callers, each of whom sees its own only. Event loop only.

    Args:
        max_bytes: Limit of all regions together; 0 switches them off.
        folder: Where segments are.
    """

    def __init__(self, max_bytes: int = 0, folder: Path = FOLDER) -> None:
        self._most = max_bytes
        self._folder = folder
        # By owner and name.
        self._regions: dict[tuple[str, str], Region] = {}

    @property
    def are_on(self) -> bool:
        """Whether there may be regions at all."""
        return self._most > 0

    @property
    def nbytes(self) -> int:
        """Bytes of all regions together."""
        return sum(region.size for region in self._regions.values())

    def __len__(self) -> int:
        return len(self._regions)

    def register(self, owner: str, name: str, key: str, offset: int, size: int) -> None:
        """Register a part of a segment.

        Args:
            owner: The caller's name.
            name: The region's name; another owner may have one of the same name.
            key: The segment's name, as of shm_open; "/" at its beginning may be left out.
            offset: Where the region begins in the segment, in bytes.
            size: In bytes, at least 1.

        Raises:
            NotSupported: Regions are switched off.
            AlreadyExists: The owner has a region of this name.
            InvalidInput: The segment cannot be opened, or is shorter, or there are too many or too large regions.
        """
        self._check_on()
        if not name:
            raise InvalidInput("name", "must not be empty")
        if (owner, name) in self._regions:
            raise AlreadyExists(f"region {name!r} is registered already; unregister it first")
        if not size:
            raise InvalidInput("byte_size", "must be at least 1")
        if len(self._regions) >= MOST_REGIONS:
            raise InvalidInput("name", f"{MOST_REGIONS} regions are registered, the most; unregister one first")
        if size > (left := self._most - self.nbytes):
            raise InvalidInput(
                "byte_size", f"{size}, more than {left}, which is left of system_shared_memory_bytes, {self._most}"
            )
        self._regions[owner, name] = self._open(name, key, offset, size)

    def unregister(self, owner: str, name: str) -> None:
        """Remove a region of a caller, or all of them if `name` is empty. Requests that use it go on."""
        for known in [*self._regions] if not name else [(owner, name)]:
            if known[0] == owner:
                self._regions.pop(known, None)

    def of(self, owner: str) -> Iterator[Region]:
        """Return a caller's regions."""
        return (region for (name, _), region in self._regions.items() if name == owner)

    def place(self, owner: str, name: str, offset: int, size: int, field: str) -> Place:
        """Return bytes of a caller's region.

        Raises:
            RegionNotFound: It has no such region.
            InvalidInput: They do not lie within it, or regions are switched off.
        """
        if not self.are_on:
            raise InvalidInput(field, "shared memory is switched off on this server (system_shared_memory_bytes)")
        region = self._regions.get((owner, name))
        if region is None:
            raise RegionNotFound(f"{field}: {name[:64]!r} is not a region that this caller has registered")
        if offset + size > region.size:
            raise InvalidInput(
                field, f"bytes {offset} to {offset + size} are not within region {name!r}, which has {region.size}"
            )
        return Place(region, offset, size, field)

    def _check_on(self) -> None:
        if not self.are_on:
            raise NotSupported("system shared memory is switched off on this server (system_shared_memory_bytes)")

    def _open(self, name: str, key: str, offset: int, size: int) -> Region:
        descriptor, is_writable = self._segment(key)
        try:
            status: Any = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise InvalidInput("key", f"{key!r} is not a segment of shared memory")
            if offset + size > status.st_size:
                raise InvalidInput(
                    "byte_size", f"bytes {offset} to {offset + size} are not within {key!r}, which has {status.st_size}"
                )
        except BaseException:
            os.close(descriptor)
            raise
        return Region(descriptor, name, key, offset, size, is_writable=is_writable)

    def _segment(self, key: str) -> tuple[int, bool]:
        """Open a segment; return its descriptor, and whether it may be written to."""
        plain = key.removeprefix("/")
        if not plain or "/" in plain or "\0" in plain or plain in (".", "..") or plain.startswith(_SEMAPHORE):
            raise InvalidInput("key", f"{key!r} is not the name of a segment, as of shm_open")
        if len(plain.encode(errors="surrogateescape")) > _LONGEST_KEY:
            raise InvalidInput("key", f"is longer than {_LONGEST_KEY} bytes")
        # Links are not followed, and what is no file does not block.
        flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            folder = os.open(self._folder, _OPEN_FOLDER)
            try:
                try:
                    return os.open(plain, flags | os.O_RDWR, dir_fd=folder), True
                except PermissionError:
                    return os.open(plain, flags | os.O_RDONLY, dir_fd=folder), False
            finally:
                os.close(folder)
        except OSError as error:
            raise InvalidInput("key", f"{key!r} cannot be opened: {error.strerror}") from None
