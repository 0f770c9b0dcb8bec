"""Reads files that somebody else wrote: regular ones of a bounded size, and nothing that could be waited for."""

import os
import stat
from pathlib import Path
from typing import Final

# What an ONNX file, as protobuf, can have at most.
MAX_FILE_BYTES: Final = (1 << 31) - 1


class NotReadable(Exception):
    """A file that is not read; the message says what is wrong with it, to be put after its name."""


def read_regular(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return a regular file's content; a symbolic link's target counts.

    A FIFO, a socket or a device would keep its reader waiting, for ever, or never come to an end.

    Raises:
        NotReadable: It is no regular file, or larger than `max_bytes`.
        OSError: It is not there, or cannot be opened or read.
    """
    # Opening a FIFO waits for its writer unless told not to.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise NotReadable(f"is {_kind(status.st_mode)}, not a regular file")
        if status.st_size > max_bytes:
            raise NotReadable(f"has {status.st_size} bytes; {max_bytes} are allowed")
        with open(file, "rb", closefd=False) as stream:
            # One byte more, to see whether it has grown: an endless one must not fill the memory.
            content = stream.read(status.st_size + 1)
    finally:
        os.close(file)
    if len(content) > status.st_size:
        raise NotReadable("grew while it was read")
    return content


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a character device",
        stat.S_IFBLK: "a block device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
