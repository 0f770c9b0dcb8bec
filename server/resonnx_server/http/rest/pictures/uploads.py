"""Reads what is posted with pictures: the options of the query, and the files of the body."""

from collections.abc import Collection
from typing import Final, TypeVar

from google.protobuf.message import Message

from resonnx_server.http.rest.exchange import Posted
from resonnx_server.http.rest.pictures.files import MOST_FILES, MULTIPART, File, files_of
from resonnx_server.http.rest.pictures.options import message_of
from resonnx_server.inference.registry import Models
from resonnx_server.protocol.pieces import Pieces, at_once

M = TypeVar("M", bound=Message)

_SMALL_BODY: Final = 1 << 20
# Characters of a header that becomes a request's id.
_LONGEST_ID: Final = 64


class Uploads:
    """Reads posted requests, and counts those that cannot be read as rejected.

    Args:
        models: The registry.
        pieces: The thread that divides large bodies.
    """

    def __init__(self, models: Models, pieces: Pieces) -> None:
        self.rejected = models.rejected
        self._pieces = pieces

    def message(self, kind: type[M], posted: Posted, others: Collection[str] = ()) -> M:
        """Return the options of a request; arguments and errors as of `message_of`."""
        with self.rejected.counting():
            message = message_of(kind, posted.request.match_info["name"], posted.request.query, others)
        header = posted.request.headers.get("X-Request-Id", "")
        message.id = message.id or _shown(header)  # type: ignore[attr-defined]  # all kinds have it
        return message

    async def files(self, posted: Posted, most: int = MOST_FILES) -> list[File]:
        """Return the files of a request: its body, or the parts of a form, at most `most`. Raises InvalidInput."""
        body = posted.take_body()
        if not is_form(posted):
            return [File("", bytes(body))]
        try:
            with self.rejected.counting():
                # The parts are copied.
                posted.received.resize(2 * len(body))
                work = files_of(body, posted.request.headers["Content-Type"], most)
                is_small = len(body) <= _SMALL_BODY and most <= MOST_FILES
                return at_once(work) if is_small else await self._pieces.run(work)
        finally:
            posted.received.resize(len(body))


def is_form(posted: Posted) -> bool:
    """Whether a request's body is a form, and not one file."""
    return posted.request.content_type == MULTIPART


def _shown(header: str) -> str:
    """Return a header as an id. aiohttp gives bytes that are not UTF-8 as surrogates, which no id can hold."""
    return header[:_LONGEST_ID].encode(errors="replace").decode()
