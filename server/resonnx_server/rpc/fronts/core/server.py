"""Polls gRPC's completion queue on a thread of its own, and passes calls to the event loop."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import grpc

from resonnx_server.observe.incidents import report_incident
from resonnx_server.observe.tracing import Traces
from resonnx_server.rpc.fronts.core import operations as ops
from resonnx_server.rpc.fronts.core.call import CoreCall, Shared, ignore
from resonnx_server.rpc.fronts.core.stream import CoreStreamCall
from resonnx_server.rpc.fronts.front import Admit, Front, OnUnknown, Options, admit_all
from resonnx_server.rpc.fronts.intake import Intake
from resonnx_server.rpc.fronts.status import Rejected

_log = logging.getLogger(__name__)

# Calls that gRPC may accept before the first of them is handled.
_ACCEPTED_AHEAD: Final = 32
# Calls that are cancelled in one turn of the event loop, about a millisecond of work, and the pause until the next.
# Without pauses, the queue's thread would wait for the interpreter after each of thousands of events.
_CANCELLED_AT_ONCE: Final = 8
_CANCEL_PAUSE_S: Final = 0.002
# Polls that may fail in a row before the queue counts as broken.
_MOST_FAILED_POLLS: Final = 3


def _log_error(message: str, error: Exception, caller: str) -> str:
    return report_incident(_log, message, error, caller)


class CoreFront(Front):
    """The front on the completion queue.

    Args:
        options: gRPC's channel arguments.
        on_unknown: Called on the event loop for each call of an unknown method.
        admit: Admits calls.
        report: Called on any thread with a message for the log, an error that no caller has caused, and the caller's
            name or "". Returns the incident's id.
        intake: The memory budget; None for none.
        traces: Traces of requests; None for none.
        on_broken: Called on any thread if the queue cannot be polled any more: no call is answered from then on.
    """

    def __init__(
        self,
        options: Options,
        on_unknown: OnUnknown = lambda: None,
        admit: Admit = admit_all,
        report: Callable[[str, Exception, str], str] = _log_error,
        on_broken: Callable[[], object] = lambda: None,
        intake: Intake | None = None,
        traces: Traces | None = None,
    ) -> None:
        super().__init__(self._call_soon, admit)
        self._on_broken = on_broken
        self._on_unknown = on_unknown
        self._report = report
        self._queue = ops.new_queue()
        self._server = ops.new_server(tuple(options))
        self._server.register_completion_queue(self._queue)
        self._shared = Shared(
            self._call_soon,
            self._cancel_soon,
            self._active,
            report,
            intake=intake or Intake(),
            traces=traces or Traces(),
        )
        self._thread = threading.Thread(target=self._take_events, name="grpc", daemon=True)
        # Work for the event loop, and whether the loop has been woken for it.
        self._wanted: deque[tuple[Callable[[Any], object], Any]] = deque()
        # Calls whose callers have gone: thousands at once must not hold up the others.
        self._cancelled: deque[Callable[[None], None]] = deque()
        self._is_woken = self._is_cancelling = False
        # Guards `_is_stopping`: gRPC must not be asked for another call after its shutdown has begun.
        self._accepting = threading.Lock()
        self._is_stopping = False
        self._is_broken = False
        self._is_quiet = asyncio.Event()
        # Set, while stopping, when an operation has ended and its event was handled.
        self._ended = asyncio.Event()
        # Set when the queue's thread ends.
        self._is_left = asyncio.Event()

    def _bind(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        port = ops.add_port(self._server, address, credentials)
        if not port:
            raise OSError(f"cannot listen on {address}")
        return port

    async def start(self) -> None:
        """Accept calls."""
        self._loop = asyncio.get_running_loop()
        self._server.start(backup_queue=False)
        self._thread.start()
        for _ in range(_ACCEPTED_AHEAD):
            self._accept_another()

    async def _shut_down(self) -> None:
        """Accept no more calls, cancel those in progress, and wait until their handlers have ended."""
        if not self._thread.is_alive():
            return
        with self._accepting:
            if not self._is_stopping:
                self._is_stopping = True
                self._shared.pending.begin()
                self._server.shutdown(self._queue, self._is_shut_down)
        self._server.cancel_all_calls()
        await self._is_quiet.wait()
        # The calls are cancelled; their handlers and operations have not all ended.
        tasks, pending = self._shared.tasks, self._shared.pending
        while not self._is_broken and (tasks or self._wanted or self._cancelled or pending.count):
            self._ended.clear()
            await (asyncio.wait(tasks) if tasks else self._ended.wait())
        if self._is_broken:
            return
        self._server.destroy()
        self._queue.shutdown()
        await self._is_left.wait()
        self._thread.join()

    # On the queue's thread.

    def _take_events(self) -> None:
        poll = self._queue.poll
        is_last, failed = False, 0
        while not is_last:
            try:
                event = poll()
            except Exception as error:
                self._report("gRPC's queue cannot be read", error, "")
                failed += 1
                if failed == _MOST_FAILED_POLLS:
                    self._is_broken = True
                    self._wake(self._active.clear)
                    self._wake(self._is_quiet.set)
                    self._wake(self._ended.set)
                    self._on_broken()
                    break
                continue
            failed = 0
            try:
                is_last = ops.is_shutdown(event)
                if not is_last:
                    event.tag(event)
            except Exception as error:
                self._report("an event of gRPC could not be handled", error, "")
            # An event holds its call, which must not live until the next event.
            event = None
            self._shared.pending.end()
            if self._is_stopping:
                self._wake(self._ended.set)
        self._wake(self._is_left.set)

    def _wake(self, act: Callable[[], object]) -> None:
        # The loop is closed if `stop` was not awaited.
        try:  # noqa: SIM105 - for each request, and the context manager takes longer
            self._loop.call_soon_threadsafe(act)
        except RuntimeError:
            pass

    def _accept_another(self) -> None:
        with self._accepting:
            if not self._is_stopping:
                self._shared.pending.begin()
                self._server.request_call(self._queue, self._queue, self._accepted)

    def _accepted(self, event: ops.Event) -> None:
        if not event.success:
            return
        self._accept_another()
        path = event.call_details.method.decode(errors="replace")
        handler = self._handlers.get(path)
        if handler is None:
            self._call_soon(lambda _: self._on_unknown(), None)
            self._refuse(event, ops.send_status(grpc.StatusCode.UNIMPLEMENTED, "Method not found!", ()))
            return
        peer = ops.peer(event.call)
        try:
            caller = self._admit(path, peer, ops.metadata(event), partial(ops.tls, event))
        except Rejected as rejected:
            self._refuse(event, ops.send_status(*rejected.status))
            return
        kind = CoreStreamCall if handler.response_streaming else CoreCall
        kind(event, handler, caller, self._shared, peer, path).begin()

    def _refuse(self, event: ops.Event, status: ops.Operation) -> None:
        """End a call whose request is not received."""
        self._shared.pending.start(event.call, (ops.send_headers(), ops.receive_close(), status), ignore)

    def _is_shut_down(self, event: ops.Event) -> None:
        self._call_soon(lambda _: self._is_quiet.set(), None)

    def _call_soon(self, act: Callable[[Any], object], value: Any) -> None:
        self._wanted.append((act, value))
        if not self._is_woken:
            self._is_woken = True
            self._wake(self._act)

    def _cancel_soon(self, cancel: Callable[[None], None]) -> None:
        self._cancelled.append(cancel)
        if not self._is_cancelling:
            self._is_cancelling = True
            self._wake(self._cancel_some)

    # On the event loop.

    def _act(self) -> None:
        # First, so that work added from here on is either done below or wakes the loop again.
        self._is_woken = False
        wanted = self._wanted
        while wanted:
            act, value = wanted.popleft()
            try:
                act(value)
            except Exception as error:
                self._report("a call could not be served", error, "")

    def _cancel_some(self) -> None:
        cancelled = self._cancelled
        for _ in range(min(_CANCELLED_AT_ONCE, len(cancelled))):
            try:
                cancelled.popleft()(None)
            except Exception as error:
                self._report("a call could not be cancelled", error, "")
        # First, as in `_act`.
        self._is_cancelling = False
        if cancelled:
            self._is_cancelling = True
            self._loop.call_later(_CANCEL_PAUSE_S, self._cancel_some)
        elif self._is_stopping:
            self._ended.set()
