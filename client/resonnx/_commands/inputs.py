"""Expands the command's arguments into pictures: files, folders, patterns, standard input."""

import errno
import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from resonnx._pictures.videos import is_picture_name, no_pictures

STDIN = "-"


class Picture:
    """A picture that is read when it is sent.

    Args:
        inputs: The inputs that it belongs to.
        name: Its name among them.
    """

    def __init__(self, inputs: "Inputs", name: str) -> None:
        self._inputs = inputs
        self._name = name

    def read(self) -> bytes:
        """Return the file's bytes; raises OSError if it cannot be read."""
        return self._inputs.read(self._name)


class Inputs:
    """The pictures that arguments name.

    A folder is replaced by its pictures, sorted by name, without subfolders and hidden files; a pattern by the sorted
    files that match it, where `**` matches folders of any depth. An argument that matches nothing is kept, and fails
    when it is read.

    Args:
        arguments: The command's arguments.

    Raises:
        ValueError: `-` is given twice.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        if arguments.count(STDIN) > 1:
            raise ValueError("- is standard input, which can be read only once")
        self.names = [name for argument in arguments for name in self._expand(argument)]
        # Output lines start with the picture's name unless one picture was named.
        self.named = len(self.names) > 1 or self.names != list(arguments)

    def _expand(self, argument: str) -> Iterator[str]:
        return _pictures(argument)

    def pictures(self) -> Iterator[Picture]:
        """Yield the pictures in the order of their names."""
        return (Picture(self, name) for name in self.names)

    def read(self, name: str) -> bytes:
        """Return a picture file's bytes; raises OSError if it cannot be read."""
        if name == STDIN:
            return sys.stdin.buffer.read()
        if Path(name).is_dir():
            raise IsADirectoryError(errno.EISDIR, no_pictures(), name)
        if glob.has_magic(name) and not os.path.lexists(name):
            raise FileNotFoundError(errno.ENOENT, "no file matches this pattern", name)
        return Path(name).read_bytes()


class Clips(Inputs):
    """The clips that arguments name: a folder is one clip; arguments and errors as of `Inputs`."""

    def _expand(self, argument: str) -> Iterator[str]:
        yield argument


def _pictures(argument: str) -> Iterator[str]:
    found: list[str] = []
    if argument == STDIN or (os.path.lexists(argument) and not os.path.isdir(argument)):
        pass
    elif os.path.isdir(argument):
        found = [os.path.join(argument, name) for name in sorted(os.listdir(argument)) if is_picture_name(name)]
    elif glob.has_magic(argument):
        found = sorted(glob.glob(argument, recursive=True))
    yield from [name for name in found if os.path.isfile(name)] or [argument]
