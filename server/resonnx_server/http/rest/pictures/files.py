"""The picture files of a posted body: the body itself, or the parts of multipart/form-data."""

from email.message import Message
from typing import Final, NamedTuple

from resonnx_server.errors import InvalidInput
from resonnx_server.protocol.pieces import Work

MULTIPART: Final = "multipart/form-data"
MOST_FILES: Final = 256
_MOST_HEAD: Final = 1 << 12
_LONGEST_NAME: Final = 128
# Searched, or copied, at once: less than a millisecond.
_PIECE_BYTES: Final = 1 << 20
_PLAIN: Final = ("7bit", "8bit", "binary")


class File(NamedTuple):
    """A file and its name, which may be empty."""

    name: str
    content: bytes


def files_of(body: bytes | bytearray, content_type: str, most: int = MOST_FILES) -> Work[list[File]]:
    """Return the files of a body of multipart/form-data.

    Args:
        body: The whole body.
        content_type: The header Content-Type.
        most: Limit of its files.

    Raises:
        InvalidInput: It is not such a body, has no files or too many, or a part is no file.
    """
    head = Message()
    head["Content-Type"] = content_type
    try:
        boundary = head.get_boundary()
    except ValueError:
        reason = "its boundary* is in an encoding that is not known; write it in ASCII"
        raise InvalidInput("Content-Type", reason) from None
    if not boundary:
        raise InvalidInput("Content-Type", "multipart/form-data without a boundary")
    delimiter = b"--" + boundary.encode("latin-1", "replace")
    files: list[File] = []
    # As if a line end came before the first delimiter, which may be the body's beginning.
    position = 0 if body.startswith(delimiter) else (yield from _find(body, b"\r\n" + delimiter, 0)) + 2
    while True:
        position += len(delimiter)
        if body.startswith(b"--", position):
            break
        begin = yield from _find(body, b"\r\n\r\n", position, _MOST_HEAD)
        end = yield from _find(body, b"\r\n" + delimiter, begin + 4)
        name = _name(bytes(body[position:begin]), len(files))
        if len(files) == most:
            raise InvalidInput("request", f"more than {most} files")
        files.append(File(name, bytes(memoryview(body)[begin + 4 : end])))
        position = end + 2
        yield
    if not files:
        raise InvalidInput("request", "multipart/form-data without a file")
    return files


def _find(body: bytes | bytearray, what: bytes, start: int, most: int | None = None) -> Work[int]:
    """Return where `what` begins, after `start`. Raises InvalidInput if it does not come, or not in `most` bytes."""
    end = len(body) if most is None else min(len(body), start + most)
    while start < end:
        found = body.find(what, start, min(end, start + _PIECE_BYTES + len(what)))
        if found >= 0:
            return found
        start += _PIECE_BYTES
        yield
    raise InvalidInput("request", "multipart/form-data that breaks off, or whose parts have too long heads")


def _name(head: bytes, index: int) -> str:
    """Return the name of a part's file. Raises InvalidInput if it is no file."""
    fields = {}
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, _, value = line.partition(":")
        fields[name.strip().lower()] = value.strip()
    shown = Message()
    shown["Content-Disposition"] = fields.get("content-disposition", "")
    field = shown.get_param("name", "", "content-disposition")
    try:
        file = shown.get_filename()
    except ValueError:
        # Not every codec of Python that a caller may name decodes bytes to text.
        reason = "its filename* is in an encoding that is not known; write it in UTF-8"
        raise InvalidInput(f"parts[{index}]", reason) from None
    if file is None and not fields.get("content-type", "").startswith(("image/", "application/octet-stream")):
        raise InvalidInput(f"parts[{index}]", f"{str(field)[:64]!r} is no file; give options in the query (?top_k=3)")
    if fields.get("content-transfer-encoding", "binary").lower() not in _PLAIN:
        raise InvalidInput(f"parts[{index}]", "Content-Transfer-Encoding is not supported")
    # Halves of surrogate pairs cannot be returned.
    return str(file if file is not None else field)[:_LONGEST_NAME].encode(errors="replace").decode()
