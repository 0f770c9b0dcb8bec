"""Reads untrusted files: regular files of a bounded size only."""

import os
import stat
from pathlib import Path
from typing import Final

# The largest ONNX file, as protobuf allows.
MAX_FILE_BYTES: Final = (1 << 31) - 1


class NotReadable(Exception):
    """A file that must not be read. The message is a predicate: "is a FIFO"."""


def read_regular(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return a regular file's content, following symbolic links.

    A FIFO, socket or device could block the reader for ever or be endless.

    Raises:
        NotReadable: It is not a regular file, or larger than `max_bytes`.
        OSError: It does not exist, or cannot be opened or read.
    """
    # Without O_NONBLOCK, opening a FIFO waits for its writer.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise NotReadable(f"is {_kind(status.st_mode)}, not a regular file")
        if status.st_size > max_bytes:
            raise NotReadable(f"has {status.st_size} bytes; {max_bytes} are allowed")
        with open(file, "rb", closefd=False) as stream:
            # One byte more, to notice a file that grows: an endless one must not fill the memory.
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
