"""Runs the handler of a posted request: its body, deadline, failures, and the sending of its answer."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

from aiohttp import web

from resonnx_server.access.caller import Caller, Role
from resonnx_server.access.starts import Starts
from resonnx_server.errors import DeadlineExceeded, ServerError
from resonnx_server.http.connection import CONNECTION
from resonnx_server.http.guard import CALLER
from resonnx_server.http.pages import Page
from resonnx_server.http.rest import spans
from resonnx_server.http.rest.active import ActiveRequests
from resonnx_server.http.rest.body import Bodies, discard
from resonnx_server.http.rest.deadline import HEADER, deadline_ns
from resonnx_server.http.rest.events import event
from resonnx_server.http.rest.failures import body_of, failure
from resonnx_server.http.rest.packing import LEAST_BYTES, packed
from resonnx_server.inference.requests import Inference
from resonnx_server.memory.budget import Charge
from resonnx_server.observe.exposition import accepts_gzip
from resonnx_server.observe.incidents import report_incident
from resonnx_server.observe.spans.tracer import tracer
from resonnx_server.observe.transfer import TRANSFER, Transfer
from resonnx_server.protocol.pieces import Pieces, at_once

_log = logging.getLogger(__name__)

# Packed on the event loop.
_SMALL_BYTES: Final = 1 << 15


class Posted:
    """A posted request.

    Args:
        request: Its head.
        caller: Who has sent it.
        received: Holds the body, until whoever runs the request holds it.
        answer: Holds the answer, until it is sent.

    Attributes:
        deadline_ns: Monotonic; None for none.
        is_begun: Whether whoever runs the request counts it from now on.
        stream: The answer, if it is sent piece by piece and has begun.
    """

    __slots__ = ("_body", "answer", "caller", "deadline_ns", "is_begun", "received", "request", "stream")

    def __init__(self, request: web.Request, caller: Caller, received: Charge, answer: Charge) -> None:
        self.request, self.caller, self.received, self.answer = request, caller, received, answer
        self.deadline_ns: int | None = None
        self.is_begun = False
        self.stream: web.StreamResponse | None = None
        self._body: bytes | bytearray = b""

    def give_body(self, body: bytes | bytearray) -> None:
        """Set the body, unpacked."""
        self._body = body

    def take_body(self) -> bytes | bytearray:
        """Return the body, and keep it no longer."""
        body, self._body = self._body, b""
        return body

    def begin(self) -> None:
        """Leave the body's memory, and the counting, to whoever runs the request. Nothing may come between."""
        self.is_begun = True
        self.received.release()


class Content(NamedTuple):
    """An answer's body and its headers."""

    body: bytes
    headers: Mapping[str, str]


class Exchange:
    """Makes pages of functions that answer posted requests.

    Args:
        inference: For its memory budget, the count of rejected requests, and traces.
        bodies: Receives bodies.
        pieces: The thread that packs large answers.

    Attributes:
        active: The requests under way.
    """

    def __init__(self, inference: Inference, bodies: Bodies, pieces: Pieces) -> None:
        self._budget = inference.budget
        self._rejected = inference.models.rejected
        self._traces = inference.traces
        self._bodies = bodies
        self._pieces = pieces
        self._starts = Starts(lambda message, error: report_incident(_log, message, error, ""))
        self.active = ActiveRequests()

    def page(
        self,
        path: str,
        answer: Callable[[Posted], Awaitable[Content | web.StreamResponse]],
        most_bytes: int,
        role: Role = Role.INFER,
    ) -> Page:
        """Return a page whose answers `answer` makes.

        Args:
            path: Its path, as aiohttp's router writes it.
            answer: Returns the answer to a request.
            most_bytes: Limit of a body.
            role: What a caller needs.
        """

        async def handle(request: web.Request) -> web.StreamResponse:
            transfer = Transfer() if self._traces.is_on else None
            # The task serves all requests of a connection.
            TRANSFER.set(transfer)
            call_span = spans.begin(path) if tracer.is_on else None
            if transfer is None and call_span is None:
                return await self._handle(request, answer, most_bytes)
            response = sent_ns = None
            try:
                response = await self._handle(request, answer, most_bytes)
                sent_ns = time.monotonic_ns()
                return response
            finally:
                if transfer is not None:
                    transfer.over(sent_ns)
                if call_span is not None:
                    spans.end(call_span, response)

        return Page(path, handle, role, most_bytes, is_json=True)

    async def _handle(
        self,
        request: web.Request,
        answer: Callable[[Posted], Awaitable[Content | web.StreamResponse]],
        most_bytes: int,
    ) -> web.StreamResponse:
        caller, budget = CALLER.get(), self._budget
        with self.active.counted(), Charge(budget, caller.name) as received, Charge(budget, caller.name) as sent:
            posted = Posted(request, caller, received, sent)
            try:
                response = await self._answered(posted, answer, most_bytes)
            except asyncio.CancelledError:
                ended = self.active.was_ended()
                if ended is None:
                    # The client has gone.
                    raise
                self._count_early(posted, ended)
                response = await _failed(posted, ended)
            except ServerError as error:
                response = await _failed(posted, error.with_traceback(None))
            except Exception as error:  # the boundary of one request
                incident = report_incident(_log, "a request failed", error, caller.name)
                hidden = ServerError.hidden(incident)
                self._count_early(posted, hidden)
                response = await _failed(posted, hidden)
            await _send(request, response)
            return response

    async def _answered(
        self, posted: Posted, answer: Callable[[Posted], Awaitable[Content | web.StreamResponse]], most_bytes: int
    ) -> web.StreamResponse:
        request = posted.request
        with self._rejected.counting():
            deadline = posted.deadline_ns = deadline_ns(request.headers.get(HEADER))
        try:
            async with asyncio.timeout(None if deadline is None else (deadline - time.monotonic_ns()) / 1e9):
                with self._rejected.counting():
                    posted.give_body(await self._bodies.receive(request, posted.received, most_bytes))
                if (transfer := TRANSFER.get()) is not None:
                    transfer.received()
                if (connection := CONNECTION.get(None)) is not None:
                    connection.infer()
                # Beside a flood of another caller, its requests have not all to be read before.
                await self._starts.turn(posted.caller.name)
                content = await answer(posted)
        except TimeoutError:
            error = DeadlineExceeded(f"the request's deadline has passed ({HEADER})")
            self._count_early(posted, error)
            raise error from None
        # It counts as a success already: its answer is sent, even if the deadline passes while it is packed.
        return content if isinstance(content, web.StreamResponse) else await self._response(request, content)

    def _count_early(self, posted: Posted, error: ServerError) -> None:
        """Count a request as rejected that fails before a model counts it."""
        if not posted.is_begun:
            self._rejected.count(error)

    async def _response(self, request: web.Request, content: Content) -> web.Response:
        body, headers = content.body, {**content.headers, "Vary": "Accept-Encoding"}
        if len(body) >= LEAST_BYTES and accepts_gzip(",".join(request.headers.getall("Accept-Encoding", ()))):
            work = packed(body)
            body = at_once(work) if len(body) <= _SMALL_BYTES else await self._pieces.run(work)
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)


async def _failed(posted: Posted, error: ServerError) -> web.StreamResponse:
    """Return the answer to a request that failed: of a stream that has begun, its last event."""
    if posted.stream is not None:
        await posted.stream.write(event("error", body_of(error)))
        return posted.stream
    await discard(posted.request)
    return failure(error)


async def _send(request: web.Request, response: web.StreamResponse) -> None:
    """Send an answer, and wait until all but the rest that the system buffers is taken."""
    if (connection := CONNECTION.get(None)) is not None:
        connection.send()
    if (transfer := TRANSFER.get()) is not None:
        transfer.sending()
    await response.prepare(request)
    await response.write_eof()
