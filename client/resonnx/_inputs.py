"""Which pictures the command's arguments mean: files, folders, patterns that no shell has expanded, standard input."""

import errno
import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

STDIN = "-"
# What a folder's pictures are told by; a file that is named is sent whatever it is called.
_SUFFIXES = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class Inputs:
    """The pictures to ask about.

    A folder stands for its pictures, sorted by name, without those of its folders and hidden ones; a pattern for the
    files that match it, sorted, with `**` for folders of any depth. What matches nothing stands for itself, and fails
    by itself when it is read.

    Args:
        arguments: As given.

    Raises:
        ValueError: Standard input is asked for twice.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        if arguments.count(STDIN) > 1:
            raise ValueError("- stands for standard input, which can be read once")
        self.names = [name for argument in arguments for name in _expand(argument)]
        # A line of output must say whose it is, unless the one picture was named.
        self.named = len(self.names) > 1 or self.names != list(arguments)

    def read(self, name: str) -> bytes:
        """Return one picture's bytes; raises OSError if there are none."""
        if name == STDIN:
            return sys.stdin.buffer.read()
        if Path(name).is_dir():
            raise IsADirectoryError(errno.EISDIR, f"a folder without pictures ({', '.join(sorted(_SUFFIXES))})", name)
        if glob.has_magic(name) and not os.path.lexists(name):
            raise FileNotFoundError(errno.ENOENT, "no file matches this pattern", name)
        return Path(name).read_bytes()


def _expand(argument: str) -> Iterator[str]:
    found: list[str] = []
    if argument == STDIN or (os.path.lexists(argument) and not os.path.isdir(argument)):
        pass
    elif os.path.isdir(argument):
        found = [os.path.join(argument, name) for name in sorted(os.listdir(argument)) if _is_picture(name)]
    elif glob.has_magic(argument):
        found = sorted(glob.glob(argument, recursive=True))
    yield from [name for name in found if os.path.isfile(name)] or [argument]


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in _SUFFIXES
