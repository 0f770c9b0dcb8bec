"""Reads the lines of text in pickles of Python 2, in which they quote strings and name classes."""

import pickletools
import re
from typing import IO, Final

# Escapes of Python 2's repr of byte strings.
_ESCAPE: Final = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)")
_CONTROLS: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


class BadPickle(ValueError):
    """A pickle is damaged, or contains objects that checkpoints do not have."""


def read_string(source: IO[bytes]) -> str:
    """Read a quoted string of Python 2; pickletools accepts only ASCII."""
    escaped = pickletools.read_stringnl(source, decode=False)
    return _ESCAPE.sub(_unescape, escaped).decode("latin-1")  # type: ignore[arg-type]


def read_line(source: IO[bytes]) -> str:
    """Read a line without its end. Raises BadPickle if the pickle ends before."""
    line = source.readline()
    if not line.endswith(b"\n"):
        raise BadPickle("the pickle is cut short or damaged")
    return line[:-1].decode()


def read_path(source: IO[bytes]) -> str:
    """Read a module and a name. Raises BadPickle if the pickle ends before."""
    return f"{read_line(source)}.{read_line(source)}"


def _unescape(escape: re.Match[bytes]) -> bytes:
    code = escape[1]
    return bytes([int(code[1:], 16)]) if len(code) == 3 else _CONTROLS.get(code, code)
