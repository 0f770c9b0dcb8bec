"""A call as its handler sees it, whichever front it came through, and how a handler is run."""

import asyncio
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final, NoReturn, Protocol, cast

import grpc

from resonnx_server.access.caller import Caller
from resonnx_server.errors import ServerError
from resonnx_server.memory.budget import Charge
from resonnx_server.observe.incidents import report_incident
from resonnx_server.observe.requests.access_log import access_log
from resonnx_server.observe.requests.identity import IDENTITY, Identity
from resonnx_server.observe.spans.tracer import tracer
from resonnx_server.observe.trace_context import TRACE_CONTEXT, of_headers
from resonnx_server.rpc.fronts import watched
from resonnx_server.rpc.fronts.buffer import MAX_MESSAGES, MessageBuffer
from resonnx_server.rpc.fronts.intake import Intake
from resonnx_server.rpc.fronts.status import Aborted, Rejected, Trailers

_log = logging.getLogger(__name__)

# First bytes of a gzip stream, with which no protobuf message can begin: field 3 of wire type 7, which does not exist.
PACKED: Final = b"\x1f\x8b"
# grpc.RpcMethodHandler with asyncio functions; its annotations make all attributes optional.
Handler = Any
# Of keys in lower case; values of keys that end with -bin are bytes.
Metadata = tuple[tuple[str, str | bytes], ...]


class Releasable(Protocol):
    """Memory that is charged to a caller."""

    def release(self) -> None:
        """Charge it no longer."""


class _Nothing:
    def release(self) -> None:
        pass


_NOTHING: Final = _Nothing()


class Call(ABC):
    """A call with one request and one answer, and the base of all others.

    Args:
        handler: The handler of the called method.
        deadline_s: The caller's deadline by `time.monotonic()`; None for none.
        caller: Who calls.
        metadata: The call's metadata.
        intake: The memory budget.
        path: The called method's path.
    """

    __slots__ = (
        "_charge",
        "_deadline_s",
        "_intake",
        "caller",
        "code",
        "details",
        "handler",
        "metadata",
        "path",
        "trailers",
    )

    def __init__(
        self,
        handler: Handler,
        deadline_s: float | None,
        caller: Caller,
        metadata: Metadata,
        intake: Intake,
        path: str = "",
    ) -> None:
        self.path = path
        self.handler = handler
        self._intake = intake
        # What the call itself and its message hold, until its answer is sent.
        self._charge = Charge(intake.budget, caller.name)
        self.caller = caller
        self.metadata = metadata
        self._deadline_s = deadline_s
        self.set_status(grpc.StatusCode.OK, "")

    def time_remaining(self) -> float | None:
        """Return the seconds until the caller's deadline, at least 0; None if it set none."""
        return None if self._deadline_s is None else max(0.0, self._deadline_s - time.monotonic())

    def set_status(self, code: grpc.StatusCode, details: str, trailers: Trailers = ()) -> None:
        """Choose the status that is sent when the handler returns. A unary answer is dropped unless it is OK."""
        self.code, self.details, self.trailers = code, details, trailers

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Trailers = ()) -> NoReturn:
        """End the call with a status at once. Name and arguments are those of grpc.aio's contexts."""
        self.set_status(code, details, trailing_metadata)
        raise Aborted

    def taken(self) -> None:  # noqa: B027 - where the front keeps the request, there is nothing to do
        """Charge the request no longer: the handler has it, and charges what it keeps."""

    def report(self, message: str, error: Exception) -> str:
        """Log an error that is no caller's fault, and return the incident's id."""
        return report_incident(_log, message, error, self.caller.name)

    @abstractmethod
    def peer(self) -> str:
        """Return gRPC's address of the client, with the port of its connection."""

    @abstractmethod
    def end(self, code: grpc.StatusCode, details: str) -> None:
        """Cancel the handler and end the call with a status; nothing happens if the handler has returned."""


class StreamCall(Call):
    """A call with a stream of requests, of answers, or both. Iterating over it gives the requests.

    The lock guards the buffers and their state, for fronts that change them on another thread.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._lock = threading.Lock()
        budget, name = self._intake.budget, self.caller.name
        self._unread = MessageBuffer(Charge(budget, name), are_answers=False)
        self._unsent = MessageBuffer(Charge(budget, name), are_answers=True)
        self._is_sending = False
        # The handler has returned, or the caller has gone: no answer is taken any more.
        self._over = False
        # Done when there is room to write again.
        self._writer: asyncio.Future[None] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        """Return the iterator of the requests: the call itself."""
        return self

    @abstractmethod
    async def __anext__(self) -> Any:
        """Wait for the next request."""

    @abstractmethod
    def _begin_to_send(self, message: bytes) -> None:
        """Send a message, and those that are buffered meanwhile; called with the lock held."""

    def put(self, answer: Any) -> "asyncio.Future[None] | None":
        """Send an answer after those before it. Once the call has ended, answers are dropped.

        Returns:
            None, or if the buffer is full, a future that is done when there is room again.

        Raises:
            Rejected: The memory budget has no room for it.
        """
        message = self.handler.response_serializer(answer)
        with self._lock:
            if self._over:
                return None
            try:
                if not self._is_sending:
                    self._unsent.send(message)
                    self._is_sending = True
                    self._begin_to_send(message)
                    return None
                self._unsent.push(message)
            except ServerError as error:
                raise self._intake.refuse(error) from None
            if self._unsent.has_room:
                return None
            if self._writer is None:
                self._writer = asyncio.get_running_loop().create_future()
            return self._writer

    async def write(self, answer: Any) -> None:
        """Send an answer and wait until there is room for another. The name is that of grpc.aio's contexts."""
        room = self.put(answer)
        if room is not None:
            # Shielded: others may wait for it as well.
            await asyncio.shield(room)

    @property
    def unsent(self) -> int:
        """Number of answers in the buffer."""
        return len(self._unsent)

    def drop_unsent(self) -> None:
        """Empty the buffer: a call that fails need not send its answers first."""
        with self._lock:
            self._unsent.clear()

    def _is_writer_due(self) -> bool:
        """Whether a handler waits for room, and half of the buffer is free; called with the lock held."""
        return self._writer is not None and len(self._unsent) <= MAX_MESSAGES // 2 and self._unsent.has_room

    def _wake_writer(self, _: None = None) -> None:
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None and not writer.done():
            writer.set_result(None)


async def serve(call: Call, message: bytes | None) -> bytes | None:
    """Run a call's handler. What it raises becomes the call's status, except cancellation.

    Args:
        call: The call.
        message: The request; None where requests are a stream.

    Returns:
        The answer of a unary call, serialized; None for streams and for a status other than OK.
    """
    # The task serves this call only.
    if (context := of_headers(call.metadata)) is not None:
        TRACE_CONTEXT.set(context)
    identity = Identity(call.metadata, call.path)
    IDENTITY.set(identity)
    if is_watched := tracer.is_on or access_log.is_on:
        watched.begin(identity, call.path)
    try:
        # Only the handler holds the request from here on.
        if message is None:
            answers = _begin(call, call)
        else:
            request, unpacked = await read(call, message)
            del message
            answers = _begin(call, request)
            del request
            # From here on the handler charges what it holds.
            unpacked.release()
            call.taken()
        if call.handler.unary_unary is not None:
            answer = await answers
            if call.code is grpc.StatusCode.OK:
                serialized: bytes = call.handler.response_serializer(answer)
                return serialized
        elif asyncio.iscoroutine(answers):
            await answers
        else:
            async with aclosing(answers):
                async for answer in answers:
                    await cast(StreamCall, call).write(answer)
    except Aborted as aborted:
        if isinstance(aborted, Rejected):
            call.set_status(*aborted.status)
    except Exception as error:
        incident = call.report("a call failed", error)
        if call.code is grpc.StatusCode.OK:
            call.set_status(grpc.StatusCode.INTERNAL, f"internal error (incident {incident})")
    finally:
        if is_watched:
            watched.end(identity, call.caller.name, call.code, call.time_remaining())
    return None


def _begin(call: Call, request: Any) -> Any:
    handler = call.handler
    method = handler.unary_unary or handler.unary_stream or handler.stream_stream
    return method(request, call)


async def read(call: Call, message: bytes) -> tuple[Any, Releasable]:
    """Return a request, and what holds the memory that it was unpacked to, if it was packed. Raises Rejected."""
    deserialize = call.handler.request_deserializer
    unpack = getattr(deserialize, "unpack", None)
    if unpack is None or not message.startswith(PACKED):
        return deserialize(message), _NOTHING
    message, charge = await unpack(message, call.caller.name)
    try:
        return deserialize(message), charge
    except BaseException:
        charge.release()
        raise
