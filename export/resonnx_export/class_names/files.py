"""Reads a file with the names of a classifier's classes, in any form that is in common use."""

import ast
import codecs
import re
import warnings
from pathlib import Path
from typing import Any, Final

from resonnx_export.checkpoints.pickles import Stub
from resonnx_export.checkpoints.unpickle import read_pickle
from resonnx_export.class_names.lines import read_lines
from resonnx_export.class_names.names import FORMS, ClassNames
from resonnx_export.class_names.objects import names_of, parse_json
from resonnx_export.errors import BadInput

# Ten thousand times the names of ImageNet would not fill it.
_MAX_BYTES: Final = 32 << 20
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    # UTF-32's begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Parsing takes a hundred times the memory.
_MAX_LITERAL: Final = 4 << 20
_PICKLE: Final = b"\x80"
# A first name such as "[unknown]".
_BRACKETED: Final = re.compile(r"\s*\[[^\[\]\",']*\]\s*")


def read_class_names(path: Path) -> ClassNames:
    """Read the names of classes: one a line, or the forms that docs/exporting.md lists.

    A form is recognised only if every line or entry has it, and is told in the notes, so that no number, id or title
    is taken as a name.

    Raises:
        BadInput: The file cannot be read, has another form, or leaves a class without a name.
    """
    try:
        return _read(path)
    except BadInput as error:
        message = str(error)
        raise BadInput(message if message.startswith(str(path)) else f"{path} {message}") from None


def _read(path: Path) -> ClassNames:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise BadInput(f"has more than {_MAX_BYTES >> 20} MiB: it holds no names of classes")
    if content.startswith(_PICKLE):
        pickled = read_pickle(path)
        if isinstance(pickled, Stub):
            raise BadInput(f"is a pickled {pickled.path}, whose names are not known; give {FORMS}")
        return names_of(pickled, "pickled")
    text = _decoded(content)
    if not text.strip():
        raise BadInput("is empty")
    if text.lstrip()[0] not in "[{":
        return read_lines(text, path.suffix.lower())
    try:
        return names_of(parse_json(text))
    except ValueError as error:
        detail = str(error)
    if (literal := _literal(text)) is not None:
        return names_of(literal, "Python")
    if _BRACKETED.fullmatch(text.lstrip().splitlines()[0]):
        return read_lines(text, "")
    raise BadInput(f"begins like JSON and is not: {detail}; give {FORMS}")


def _decoded(content: bytes) -> str:
    """Decode a text by its byte order mark, or as UTF-8; other encodings cannot be told apart, and raise BadInput."""
    mark, encoding = next(((mark, name) for mark, name in _MARKS if content.startswith(mark)), (b"", "utf-8"))
    body = content[len(mark) :]
    if not mark and (zero := body.find(0)) >= 0:
        raise BadInput(f"is not UTF-8 text: byte {zero} is zero, as in UTF-16 without a byte order mark or binary data")
    try:
        return body.decode(encoding)
    except UnicodeDecodeError as error:
        if mark:
            raise BadInput(f"begins with the mark of {encoding.upper()} text and is not: {error.reason}") from None
        line = body.count(b"\n", 0, error.start) + 1
        raise BadInput(
            f"is not UTF-8 text: line {line} has the byte {body[error.start]:#04x}; if it is Latin-1 or Windows-1252, "
            "convert it with: iconv -f WINDOWS-1252 -t UTF-8"
        ) from None


def _literal(text: str) -> Any:
    """Return a list or dict that is written as Python prints it; None if the text is none."""
    if len(text) > _MAX_LITERAL:
        return None
    try:
        with warnings.catch_warnings():
            # Of escapes in the text, which the parser prints.
            warnings.simplefilter("ignore")
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
