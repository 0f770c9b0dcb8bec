"""Runs the handler of a posted request: its body, deadline, failures, and the sending of its answer."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

from aiohttp import web

from resonnx_server.access.caller import Caller
from resonnx_server.errors import DeadlineExceeded, ServerError
from resonnx_server.http.connection import CONNECTION
from resonnx_server.http.guard import CALLER
from resonnx_server.http.pages import Handler
from resonnx_server.http.rest.active import ActiveRequests
from resonnx_server.http.rest.body import Bodies, discard
from resonnx_server.http.rest.deadline import HEADER, deadline_ns
from resonnx_server.http.rest.failures import failure
from resonnx_server.http.rest.packing import LEAST_BYTES, packed
from resonnx_server.inference.requests import Inference
from resonnx_server.memory.budget import Charge
from resonnx_server.observe.exposition import accepts_gzip
from resonnx_server.observe.incidents import report_incident
from resonnx_server.protocol.pieces import Pieces, at_once

_log = logging.getLogger(__name__)

# Packed on the event loop.
_SMALL_BYTES: Final = 1 << 15


class Posted(NamedTuple):
    """A request whose body is received.

    Attributes:
        request: Its head.
        body: Its body, unpacked.
        received: Holds the body, until whoever runs the request holds it.
        answer: Holds the answer, until it is sent.
        caller: Who has sent it.
        deadline_ns: Monotonic; None for none.
    """

    request: web.Request
    body: bytes | bytearray
    received: Charge
    answer: Charge
    caller: Caller
    deadline_ns: int | None


class Content(NamedTuple):
    """An answer's body and its headers."""

    body: bytes
    headers: Mapping[str, str]


class Exchange:
    """Makes pages of functions that answer posted requests.

    Args:
        inference: For its memory budget, and the count of rejected requests.
        bodies: Receives bodies.
        pieces: The thread that packs large answers.

    Attributes:
        active: The requests under way.
    """

    def __init__(self, inference: Inference, bodies: Bodies, pieces: Pieces) -> None:
        self._inference = inference
        self._bodies = bodies
        self._pieces = pieces
        self.active = ActiveRequests()

    def page(self, answer: Callable[[Posted], Awaitable[Content | web.StreamResponse]]) -> Handler:
        """Return the handler of a page whose answers `answer` makes; a stream it sends itself."""

        async def handle(request: web.Request) -> web.StreamResponse:
            caller = CALLER.get()
            budget = self._inference.budget
            with self.active.counted(), Charge(budget, caller.name) as received, Charge(budget, caller.name) as sent:
                try:
                    response = await self._answered(request, caller, received, sent, answer)
                except asyncio.CancelledError:
                    error = self.active.was_ended()
                    if error is None:
                        # The client has gone.
                        raise
                    response = failure(error)
                except ServerError as error:
                    response = await self._failure(request, error)
                except Exception as error:  # the boundary of one request
                    hidden = ServerError.hidden(report_incident(_log, "a request failed", error, caller.name))
                    response = failure(hidden)
                await _send(request, response)
                return response

        return handle

    async def _answered(
        self,
        request: web.Request,
        caller: Caller,
        received: Charge,
        sent: Charge,
        answer: Callable[[Posted], Awaitable[Content | web.StreamResponse]],
    ) -> web.StreamResponse:
        deadline = deadline_ns(request.headers.get(HEADER))
        try:
            async with asyncio.timeout(None if deadline is None else (deadline - time.monotonic_ns()) / 1e9):
                try:
                    body = await self._bodies.receive(request, received)
                except ServerError as error:
                    self._inference.models.rejected.count(error)
                    raise
                if (connection := CONNECTION.get(None)) is not None:
                    connection.infer()
                posted = Posted(request, body, received, sent, caller, deadline)
                del body
                content = await answer(posted)
                return content if isinstance(content, web.StreamResponse) else await self._response(request, content)
        except TimeoutError:
            raise DeadlineExceeded(f"the request's deadline has passed ({HEADER})") from None

    async def _failure(self, request: web.Request, error: ServerError) -> web.Response:
        await discard(request)
        return failure(error.with_traceback(None))

    async def _response(self, request: web.Request, content: Content) -> web.Response:
        body, headers = content.body, {**content.headers, "Vary": "Accept-Encoding"}
        if len(body) >= LEAST_BYTES and accepts_gzip(",".join(request.headers.getall("Accept-Encoding", ()))):
            work = packed(body)
            body = at_once(work) if len(body) <= _SMALL_BYTES else await self._pieces.run(work)
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)


async def _send(request: web.Request, response: web.StreamResponse) -> None:
    """Send an answer, and wait until all but the rest that the system buffers is taken."""
    if (connection := CONNECTION.get(None)) is not None:
        connection.send()
    await response.prepare(request)
    await response.write_eof()
