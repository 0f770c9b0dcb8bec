"""Reads untrusted files: regular files of a bounded size only."""

import errno
import os
import stat
from pathlib import Path
from typing import Final

from resonnx_server.errors import ModelRefused

# The largest ONNX file, as protobuf allows.
MAX_FILE_BYTES: Final = (1 << 31) - 1


class ModelUnreadable(ModelRefused):
    """A model whose files cannot be read now: the same files may be readable later."""


class NotReadable(Exception):
    """A file that must not be read. The message is a predicate: "is a FIFO"."""


def read_inside(folder: Path, path: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the content of a regular file inside `folder` by its relative path, without following links.

    Raises:
        NotReadable: The path is empty, absolute, has `..`, or leads over a link; or as read_regular.
        OSError: As read_regular.
    """
    names = path.split("/")
    if not all(names) or {".", ".."} & {*names} or not path.isprintable():
        raise NotReadable("is not a path inside the version's folder")
    opened = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        for name in names[:-1]:
            opened.append(_open_plain(name, opened[-1], os.O_DIRECTORY))
        return _read(_open_plain(names[-1], opened[-1], os.O_NONBLOCK), max_bytes)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _open_plain(name: str, folder: int, flags: int) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=folder)
    except OSError as error:
        # ENOTDIR for a link to a folder.
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise NotReadable("is a link, or below one") from None
        raise


def read_regular(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return a regular file's content, following symbolic links.

    A FIFO, socket or device could block the reader for ever or be endless.

    Raises:
        NotReadable: It is not a regular file, or larger than `max_bytes`.
        OSError: It does not exist, or cannot be opened or read.
    """
    # Without O_NONBLOCK, opening a FIFO waits for its writer.
    return _read(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), max_bytes)


def _read(file: int, max_bytes: int) -> bytes:
    """Return the content of an open file, and close it."""
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
