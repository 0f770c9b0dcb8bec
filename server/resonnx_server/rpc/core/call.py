"""One call of one message and one answer; what its handler sees of it, and what streams share with it (stream.py)."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Final, NoReturn, Protocol

import grpc

from resonnx_server.rpc.core import operations as ops

_log = logging.getLogger(__name__)

_OK: Final = grpc.StatusCode.OK

# grpc.RpcMethodHandler, with asyncio functions; all of its attributes are optional by its annotations.
Handler = Any


class CallSoon(Protocol):
    """Has the event loop call `act(value)` soon; from any thread."""

    def __call__(self, act: Callable[[Any], object], value: Any) -> None:
        """See above."""


class Aborted(Exception):
    """A handler ended its call by `abort`."""


class Rejected(Aborted):
    """A deserializer does not take a message: the call ends with this status."""

    def __init__(self, code: grpc.StatusCode, details: str, trailers: ops.Trailers) -> None:
        super().__init__(details)
        self.status = (code, details, trailers)


def done(event: ops.Event) -> None:
    """Take note of nothing: for operations whose end changes nothing."""


class ActiveCalls:
    """Calls that a handler has, or had and whose last message and status are not sent.

    Calls are added on the event loop and removed on any thread.
    """

    def __init__(self, post: CallSoon) -> None:
        self._post = post
        self._lock = threading.Lock()
        self._calls: set[Call] = set()
        # Those of them that `wait` waits for.
        self._awaited: set[Call] = set()
        self._are_answered = asyncio.Event()

    def add(self, call: "Call") -> None:
        """A handler has got it."""
        with self._lock:
            self._calls.add(call)

    def remove(self, call: "Call") -> None:
        """It has ended; nothing happens if it has before, or was never a handler's."""
        with self._lock:
            self._calls.discard(call)
            if call not in self._awaited:
                return
            self._awaited.remove(call)
            is_last = not self._awaited
        if is_last:
            self._post(lambda _: self._are_answered.set(), None)

    def end(self, code: grpc.StatusCode, details: str) -> None:
        """End all that are here with a status; their handlers are cancelled."""
        with self._lock:
            calls = [*self._calls]
        for call in calls:
            call.end(code, details)

    async def wait(self, handlers: Collection[Handler]) -> None:
        """Wait until the calls of these handlers that are here now have ended; later ones are not waited for."""
        with self._lock:
            self._are_answered.clear()
            self._awaited = {call for call in self._calls if call.handler in handlers}
            if not self._awaited:
                return
        await self._are_answered.wait()


class Call:
    """A call, and the context that its handler gets.

    `begin` and methods that take an event run on the queue's thread, all others on the event loop.

    Args:
        core: The core's call.
        handler: Its method's.
        deadline_s: By `time.monotonic()`; None is never.
        post: To the event loop.
        tasks: Where the server keeps the tasks of all handlers.
        unanswered: Where it keeps their calls.
        under_way: Where it counts operations.
    """

    __slots__ = (
        "_code",
        "_core",
        "_deadline_s",
        "_details",
        "_over",
        "_post",
        "_task",
        "_tasks",
        "_trailers",
        "_unanswered",
        "_under_way",
        "handler",
    )

    def __init__(
        self,
        core: ops.CoreCall,
        handler: Handler,
        deadline_s: float | None,
        post: CallSoon,
        tasks: "set[asyncio.Task[Any]]",
        unanswered: ActiveCalls,
        under_way: ops.UnderWay,
    ) -> None:
        self._core = core
        self.handler = handler
        self._deadline_s = deadline_s
        self._post = post
        self._tasks = tasks
        self._unanswered = unanswered
        self._under_way = under_way
        self._task: asyncio.Task[Any] | None = None
        # Nothing may be sent any more: the status is, or nobody listens.
        self._over = False
        self._code = _OK
        self._details = ""
        self._trailers: ops.Trailers = ()

    # What handlers call.

    def time_remaining(self) -> float | None:
        """Return the seconds until the caller's deadline, at least 0; None if it set none."""
        return None if self._deadline_s is None else max(0.0, self._deadline_s - time.monotonic())

    def set_status(self, code: grpc.StatusCode, details: str, trailers: ops.Trailers = ()) -> None:
        """Choose what the call ends with when its handler returns. A unary handler's answer is dropped unless OK."""
        self._code, self._details, self._trailers = code, details, trailers

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: ops.Trailers = ()) -> NoReturn:
        """End the call with a status at once. Handlers of other packages know it by this name."""
        self.set_status(code, details, trailing_metadata)
        raise Aborted

    # On the queue's thread.

    def begin(self) -> None:
        """Listen to the caller."""
        self._start((ops.receive_close(),), self._closed)
        self._start((ops.receive_message(),), self._received)

    def _closed(self, event: ops.Event) -> None:
        if ops.is_cancelled(event):
            self._post(self._cancel, None)
        else:
            self._unanswered.remove(self)

    def _received(self, event: ops.Event) -> None:
        self._post(self._run, ops.received(event))

    # On the event loop.

    def end(self, code: grpc.StatusCode, details: str) -> None:
        """End the call with a status instead of its handler's; nothing happens if that has returned."""
        if self._task is not None:
            self.set_status(code, details)
            self._task.cancel()

    def _cancel(self, _: None) -> None:
        self._over = True
        # Not earlier: a call that is over does not get a handler any more.
        self._unanswered.remove(self)
        if self._task is not None:
            self._task.cancel()

    def _run(self, message: bytes | None) -> None:
        """Hand the call to its handler, whose request is `message`."""
        if self._over:
            return
        if message is None:
            self.set_status(grpc.StatusCode.UNIMPLEMENTED, "the call needs exactly one request message")
            self._finish(None)
            return
        try:
            request = self.handler.request_deserializer(message)
        except Rejected as rejected:
            self.set_status(*rejected.status)
            self._finish(None)
            return
        except Exception:
            self.set_status(grpc.StatusCode.INTERNAL, "the request message does not parse")
            self._finish(None)
            return
        self._serve(request)

    def _answer(self, request: Any) -> Coroutine[Any, Any, Any]:
        """Return the handler's work, whose result is the answer, if it has not been written."""
        answer: Coroutine[Any, Any, Any] = self.handler.unary_unary(request, self)
        return answer

    def _serve(self, request: Any) -> None:
        try:
            task = self._task = asyncio.get_running_loop().create_task(self._answer(request))
        except Exception:
            # No coroutine function, say: a method that generated code has for those who do not write it.
            _log.exception("a method cannot be called")
            self.set_status(grpc.StatusCode.INTERNAL, "internal error")
            self._finish(None)
            return
        self._tasks.add(task)
        self._unanswered.add(self)
        task.add_done_callback(self._served)

    def _served(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        self._task = None
        error = None if task.cancelled() else task.exception()
        if self._over:
            return
        answer: bytes | None = None
        if error is None and not task.cancelled() and self._code is _OK:
            try:
                answer = self._serialized(task.result())
            except Exception as failed:
                error = failed
        if error is not None and not isinstance(error, Aborted):
            _log.error("a call failed", exc_info=error)
        if (task.cancelled() or error is not None) and self._code is _OK:
            self.set_status(grpc.StatusCode.INTERNAL, "internal error")
        # It may hold this frame, and with it the call.
        error = None
        self._finish(answer)

    def _serialized(self, answer: Any) -> bytes | None:
        """Return what is still to be sent of a handler's result."""
        message: bytes = self.handler.response_serializer(answer)
        return message

    def _finish(self, answer: bytes | None) -> None:
        """Send an answer, if there is one, and the status."""
        self._over = True
        headers, status = ops.send_headers(), ops.send_status(self._code, self._details, self._trailers)
        operations = (headers, status) if answer is None else (headers, ops.send_message(answer), status)
        self._start(operations, done)

    # On either.

    def _start(self, operations: tuple[ops.Operation, ...], tag: Callable[[ops.Event], None]) -> None:
        self._under_way.start(self._core, operations, tag)
