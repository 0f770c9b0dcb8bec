"""Calls of grpc.aio. It keeps a unary call's serialized request until the call ends."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import grpc

from resonnx_server.access.caller import Caller
from resonnx_server.errors import ServerError
from resonnx_server.rpc.fronts.buffer import CALL_BYTES
from resonnx_server.rpc.fronts.call import Call, Handler, StreamCall, read, serve
from resonnx_server.rpc.fronts.intake import Intake
from resonnx_server.rpc.fronts.status import Rejected

# grpc.aio's context of a call; its annotations lack what is used here.
Context = Any


def start_task(work: Coroutine[Any, Any, None], tasks: "set[asyncio.Task[None]]") -> "asyncio.Task[None]":
    """Start a task that `tasks` holds until it ends."""
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


class AioCall(Call):
    """A call with one request and one answer. Its handler runs in grpc.aio's task."""

    __slots__ = ("_context", "_is_ended", "_task")

    def __init__(self, handler: Handler, context: Context, caller: Caller, intake: Intake, path: str = "") -> None:
        # gRPC has it by the system clock, which may be set during the call.
        remaining = context.time_remaining()
        deadline_s = None if remaining is None else time.monotonic() + remaining
        super().__init__(handler, deadline_s, caller, context.invocation_metadata(), intake, path)
        self._context = context
        self._task: asyncio.Task[Any] | None = None
        self._is_ended = False

    async def run(self, task: "asyncio.Task[Any]", message: bytes | None) -> bytes | None:
        """Run the handler in `task`, the current one, and return the serialized answer as serve() does."""
        self._task = task
        if message is not None:
            self._intake.claim(self.peer(), message)
        try:
            # grpc.aio holds the request until the call ends.
            self._intake.charge(self._charge, max(CALL_BYTES, len(message or b"")))
            answer = await serve(self, message)
            if answer is not None and len(answer) > self._charge.nbytes:
                self._charge.resize(len(answer), answer=True)
            return answer
        except Rejected as refusal:
            self.set_status(*refusal.status)
            return None
        except ServerError as error:
            self.set_status(*self._intake.refuse(error).status)
            return None
        except asyncio.CancelledError:
            if not self._is_ended:
                if task.cancelling():
                    raise
                self.set_status(grpc.StatusCode.INTERNAL, "internal error")
            return None
        finally:
            self._task = None
            task.add_done_callback(lambda _: self._charge.release())

    def peer(self) -> str:
        """Return gRPC's address of the client, with the port of its connection."""
        address: str = self._context.peer()
        return address

    def end(self, code: grpc.StatusCode, details: str) -> None:
        """Cancel the handler and end the call with a status; nothing happens if the handler has returned."""
        if self._task is not None:
            self.set_status(code, details)
            self._is_ended = True
            self._task.cancel()


class AioStreamCall(AioCall, StreamCall):
    """A stream. As no operation of grpc.aio may be cancelled, tasks of their own read ahead and send."""

    def __init__(
        self,
        handler: Handler,
        context: Context,
        caller: Caller,
        intake: Intake,
        tasks: "set[asyncio.Task[None]]",
        path: str = "",
    ) -> None:
        super().__init__(handler, context, caller, intake, path)
        self._tasks = tasks
        self._reading: asyncio.Task[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        # Set when a request has arrived or the requests have ended; and when there is room, or the call is over.
        self._arrived, self._has_room = asyncio.Event(), asyncio.Event()
        # No more requests will come.
        self._is_read = False

    async def run(self, task: "asyncio.Task[Any]", message: bytes | None) -> None:
        """Run the handler, wait until its answers are sent, and give grpc.aio the status."""
        try:
            await super().run(task, message)
        finally:
            self._over = True
            self._has_room.set()
            self._unread.clear()
        if self._is_sending and self._sending is not None:
            await asyncio.wait({self._sending})
        if self.code is not grpc.StatusCode.OK:
            self._context.set_code(self.code)
            self._context.set_details(self.details)
            self._context.set_trailing_metadata(self.trailers)

    async def __anext__(self) -> Any:
        """Wait for the next request."""
        if self._reading is None:
            self._reading = start_task(self._read_ahead(), self._tasks)
        while not self._unread:
            if self._is_read:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        message = self._unread.pop()
        self._has_room.set()
        try:
            request, unpacked = await read(self, message)
        finally:
            # An error would hold this frame.
            del message
        # From here on the handler charges what it holds.
        unpacked.release()
        return request

    def _begin_to_send(self, message: bytes) -> None:
        self._sending = start_task(self._send(message), self._tasks)

    async def _read_ahead(self) -> None:
        try:
            while not self._over and (message := await self._context.read()) is not grpc.aio.EOF:
                if self._over:
                    # The handler has ended meanwhile: nobody takes the message, nor ends its charge.
                    return
                self._intake.claim(self.peer(), message)
                self._unread.push(message)
                del message
                self._arrived.set()
                while not (self._unread.has_room or self._over):
                    self._has_room.clear()
                    await self._has_room.wait()
        except grpc.aio.BaseError:
            # The call is over.
            pass
        finally:
            self._is_read = True
            self._arrived.set()

    async def _send(self, message: bytes) -> None:
        try:
            await self._context.write(message)
            while self._unsent:
                message = self._unsent.pop_to_send()
                if self._is_writer_due():
                    self._wake_writer()
                await self._context.write(message)
        except grpc.aio.BaseError:
            # The caller has gone.
            self.drop_unsent()
        finally:
            self._is_sending = False
            self._unsent.sent()
            self._wake_writer()
