"""A call with one request and one answer, and what streams (stream.py) share with it."""

import asyncio
import contextvars
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc

from resonnx_server.access.caller import Caller
from resonnx_server.access.starts import Starts
from resonnx_server.errors import ServerError
from resonnx_server.observe.tracing import Traces
from resonnx_server.observe.transfer import TRANSFER, Transfer
from resonnx_server.rpc.fronts.active import ActiveCalls, CallSoon
from resonnx_server.rpc.fronts.buffer import CALL_BYTES
from resonnx_server.rpc.fronts.call import Call, Handler, serve
from resonnx_server.rpc.fronts.core import operations as ops
from resonnx_server.rpc.fronts.intake import Intake
from resonnx_server.rpc.fronts.status import Rejected


@dataclass(frozen=True)
class Shared:
    """State that all calls of a server share.

    Attributes:
        call_soon: To the event loop.
        active: The calls in progress.
        report: Takes messages for the log, errors and callers' names, and returns the incident's id.
        tasks: The tasks that run their handlers.
        pending: Counts operations.
        intake: The memory budget.
        starts: Calls whose handlers have not begun.
        traces: Whether calls note when their messages come and go.
        cancel_soon: To the event loop, after other work; a few at a time.
    """

    call_soon: CallSoon
    cancel_soon: Callable[[Callable[[None], None]], object]
    active: ActiveCalls
    report: Callable[[str, Exception, str], str]
    tasks: "set[asyncio.Task[Any]]" = field(default_factory=set)
    pending: ops.PendingOperations = field(default_factory=ops.PendingOperations)
    intake: Intake = field(default_factory=Intake)
    traces: Traces = field(default_factory=Traces)
    starts: Starts = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", Starts(lambda message, error: self.report(message, error, "")))


def ignore(event: ops.Event) -> None:
    """Do nothing: for operations whose end changes nothing."""


class CoreCall(Call):
    """A unary call. `begin` and methods that take an event run on the queue's thread, all others on the event loop.

    Args:
        event: gRPC's event that brought the call.
        handler: The handler of the called method.
        caller: Who calls.
        shared: The state that all calls of the server share.
        peer: gRPC's address of the client.
        path: The called method's path.
    """

    __slots__ = ("_core", "_over", "_peer", "_shared", "_task", "_transfer")

    def __init__(
        self, event: ops.Event, handler: Handler, caller: Caller, shared: Shared, peer: str, path: str = ""
    ) -> None:
        super().__init__(handler, ops.deadline_s(event), caller, ops.metadata(event), shared.intake, path)
        self._core: ops.CoreCall = event.call
        self._shared = shared
        self._peer = peer
        # None before its handler begins, and from its end on.
        self._task: asyncio.Task[None] | None = None
        # The status was sent, or the caller has gone: nothing may be sent any more.
        self._over = False
        # Of streams of requests, nothing is noted: messages are read ahead.
        self._transfer = Transfer() if shared.traces.is_on and not handler.request_streaming else None

    # On the queue's thread.

    has_begun = is_stream = False

    @property
    def name(self) -> str:
        """Name of its caller."""
        return self.caller.name

    def begin(self) -> None:
        """Wait for the request, and for the caller to go. Refuse the call if there is no memory for it."""
        self._start((ops.receive_close(),), self._closed)
        try:
            self._intake.charge(self._charge)
        except Rejected as refusal:
            self._over = True
            self.set_status(*refusal.status)
            self._start((ops.send_headers(), self._status_operation()), ignore)
        else:
            self._receive_first()

    def _receive_first(self) -> None:
        self._intake.await_message(self)
        self._start((ops.receive_message(),), self._received)

    def _closed(self, event: ops.Event) -> None:
        if ops.is_cancelled(event):
            self._shared.cancel_soon(self._cancel)
        else:
            self._shared.active.remove(self)

    def _received(self, event: ops.Event) -> None:
        message = ops.received(event)
        if message is not None:
            self._intake.claim(self._peer, message)
        self._intake.forget(self)
        if self._transfer is not None:
            self._transfer.received()
        if message is not None and len(message) > CALL_BYTES:
            try:
                self._charge.resize(len(message))
            except ServerError as error:
                self._shared.call_soon(self._refuse, self._intake.refuse(error))
                return
        self._shared.call_soon(self._arrive, message)

    def _sent_all(self, event: ops.Event) -> None:
        self._free()
        if self._transfer is not None:
            self._shared.call_soon(self._transfer.over, time.monotonic_ns() if event.success else None)

    # On the event loop.

    def report(self, message: str, error: Exception) -> str:
        """Report an error that is no caller's fault, and return the incident's id."""
        return self._shared.report(message, error, self.caller.name)

    def peer(self) -> str:
        """Return gRPC's address of the client, with the port of its connection."""
        return self._peer

    def end(self, code: grpc.StatusCode, details: str) -> None:
        """Cancel the handler and end the call with a status; nothing happens if the handler has returned."""
        if self._task is not None:
            self.set_status(code, details)
            self._cancel_task()

    def _cancel(self, _: None) -> None:
        self._over = True
        # Not earlier: from here on the call gets no handler.
        self._shared.active.remove(self)
        self._cancel_task()

    def taken(self) -> None:
        """Charge the request no longer: the handler has it, and charges what it keeps."""
        if self._charge.nbytes > CALL_BYTES:
            self._charge.resize(CALL_BYTES)

    def _refuse(self, refusal: Rejected) -> None:
        """End the call, unless it has ended; nothing happens if its handler has begun."""
        if self._over:
            self._free()
        elif self._task is None:
            self.set_status(*refusal.status)
            self._finish(None)

    def _arrive(self, message: bytes | None) -> None:
        self._shared.starts.add(self.caller.name, partial(self._run, message))

    def _run(self, message: bytes | None) -> None:
        if self._over:
            self._free()
            return
        if message is None:
            self.set_status(grpc.StatusCode.UNIMPLEMENTED, "the call needs exactly one request message")
            self._finish(None)
            return
        self._serve(message)

    def _serve(self, message: bytes | None) -> None:
        """Run the handler; `message` is None where requests are a stream."""
        context = contextvars.copy_context() if self._transfer is not None else None
        if context is not None:
            context.run(TRANSFER.set, self._transfer)
        task = self._task = asyncio.get_running_loop().create_task(self._handle(message), context=context)
        self._shared.tasks.add(task)
        self._shared.active.add(self)

    async def _handle(self, message: bytes | None) -> None:
        # Not in a callback of the task, which costs a turn of the loop.
        try:
            answer = await serve(self, message)
        except BaseException:
            self._left()
            raise
        self._forget_task()
        self._served(answer)

    def _cancel_task(self) -> None:
        """Cancel the handler, if it has begun and not returned."""
        if self._task is not None:
            # One that is cancelled before its first step takes none.
            self._task.add_done_callback(self._left)
            self._task.cancel()

    def _left(self, _: object = None) -> None:
        """Forget the task, whose handler was cancelled, and end the call; nothing happens the second time."""
        if self._task is not None:
            if self.code is grpc.StatusCode.OK:
                self.set_status(grpc.StatusCode.INTERNAL, "internal error")
            self._forget_task()
            self._served(None)

    def _forget_task(self) -> None:
        self._shared.tasks.discard(self._task)
        self._task = None

    def _served(self, answer: bytes | None) -> None:
        if self._over:
            self._free()
            if self._transfer is not None:
                self._transfer.over(None)
            return
        try:
            self._finish(answer)
        except Exception as error:
            self._free()
            self.report("a call cannot be ended", error)

    def _finish(self, answer: bytes | None) -> None:
        """Send the answer, if there is one, and the status."""
        self._over = True
        if self._transfer is not None:
            self._transfer.sending()
        if answer is not None and len(answer) > CALL_BYTES:
            try:
                self._charge.resize(len(answer), answer=True)
            except ServerError as error:
                self.set_status(*self._intake.refuse(error).status)
                answer = None
        headers, status = ops.send_headers(), self._status_operation()
        operations = (headers, status) if answer is None else (headers, ops.send_message(answer), status)
        if answer is not None:
            self._intake.await_reader(self)
        self._start(operations, self._sent_all)

    # On either.

    def cut(self) -> None:
        """End the call at once: its reader takes nothing."""
        ops.cancel(self._core)

    def evict(self, refusal: Rejected) -> None:
        """End the call if it still waits for its request."""
        self._shared.call_soon(self._refuse, refusal)

    def resume(self) -> None:
        """Do nothing: only streams are paused."""

    def _free(self) -> None:
        """Charge nothing any more: all is sent, or nothing will be."""
        self._charge.release()
        self._intake.forget(self)
        self._intake.sending.pop(self, None)

    def _status_operation(self) -> ops.Operation:
        return ops.send_status(self.code, self.details, self.trailers)

    def _start(self, operations: tuple[ops.Operation, ...], tag: Callable[[ops.Event], None]) -> None:
        self._shared.pending.start(self._core, operations, tag)
