"""Takes calls from gRPC's completion queue, on a thread of its own, and brings what they say to the event loop."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import grpc

from resonnx_server.rpc.core import operations as ops
from resonnx_server.rpc.core.call import ActiveCalls, Call, Handler, done
from resonnx_server.rpc.core.stream import StreamCall

_log = logging.getLogger(__name__)

# Calls that the core may bring before the first of them is looked at.
_ACCEPTED_AHEAD: Final = 32


class CoreServer:
    """Serves handlers of asyncio functions, as generated `add_…Servicer_to_server` functions register them.

    Args:
        options: gRPC's channel arguments.
        on_unknown: Called on the event loop for each call of a method that nobody serves.
    """

    def __init__(self, options: list[tuple[str, int]], on_unknown: Callable[[], object] = lambda: None) -> None:
        self._on_unknown = on_unknown
        self._queue = ops.NewQueue()
        self._server = ops.new_server(tuple(options))
        self._server.register_completion_queue(self._queue)
        self._handlers: dict[bytes, Handler] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unanswered = ActiveCalls(self._post)
        self._under_way = ops.UnderWay()
        self._thread = threading.Thread(target=self._take_events, name="grpc", daemon=True)
        # What the queue's thread wants done, and whether the loop has been told to look.
        self._wanted: deque[tuple[Callable[[Any], object], Any]] = deque()
        self._is_told = False
        # Guards `_is_stopping`: the core takes no request for calls once it is told to stop.
        self._accepting = threading.Lock()
        self._is_stopping = False
        self._is_quiet = asyncio.Event()
        # Set, while stopping, when an operation has ended and what follows from it is wanted already.
        self._ended = asyncio.Event()

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Do nothing: generated code registers the same methods one by one as well."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Serve the methods of a service: unary ones, and those that answer with a stream."""
        for name, handler in handlers.items():
            if handler.request_streaming and not handler.response_streaming:
                raise NotImplementedError(f"{service}/{name}: a stream of requests with one answer")
            self._handlers[f"/{service}/{name}".encode()] = handler

    def add_insecure_port(self, address: str) -> int:
        """Listen on `address` once started, and return the port. Raises OSError if it cannot be had."""
        port: int = self._server.add_http2_port(address.encode())
        if not port:
            raise OSError(f"cannot listen on {address}")
        return port

    async def start(self) -> None:
        """Take calls."""
        self._loop = asyncio.get_running_loop()
        self._server.start(backup_queue=False)
        self._thread.start()
        for _ in range(_ACCEPTED_AHEAD):
            self._accept_another()

    async def answered(self, services: Iterable[str]) -> None:
        """Wait until the calls of `services` that handlers have now are answered and all is sent, or they are gone."""
        paths = tuple(f"/{service}/".encode() for service in services)
        await self._unanswered.wait([handler for path, handler in self._handlers.items() if path.startswith(paths)])

    def end_calls(self, code: grpc.StatusCode, details: str) -> None:
        """End all calls that handlers have with a status."""
        self._unanswered.end(code, details)

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, let those under way end within `grace_s`, then cancel the rest. Safe to call again."""
        if not self._thread.is_alive():
            return
        with self._accepting:
            if not self._is_stopping:
                self._is_stopping = True
                self._under_way.begin()
                self._server.shutdown(self._queue, self._shut_down)
        try:
            await asyncio.wait_for(self._is_quiet.wait(), grace_s)
        except TimeoutError:
            self._server.cancel_all_calls()
            await self._is_quiet.wait()
        # Callers have gone; their handlers, and operations that end only now, are still to see that.
        while self._tasks or self._wanted or self._under_way.count:
            self._ended.clear()
            await (asyncio.wait(self._tasks) if self._tasks else self._ended.wait())
        self._server.destroy()
        self._queue.shutdown()
        self._thread.join()

    # On the queue's thread.

    def _take_events(self) -> None:
        poll = self._queue.poll
        while True:
            try:
                event = poll()
                if event.completion_type == ops.QUEUE_SHUTDOWN:
                    return
                event.tag(event)
            except Exception:
                _log.exception("an event of gRPC was not understood")
            # It holds its call, which must not live until the next event.
            event = None
            self._under_way.end()
            if self._is_stopping:
                self._loop.call_soon_threadsafe(self._ended.set)

    def _accept_another(self) -> None:
        with self._accepting:
            if not self._is_stopping:
                self._under_way.begin()
                self._server.request_call(self._queue, self._queue, self._accepted)

    def _accepted(self, event: ops.Event) -> None:
        if not event.success:
            return
        self._accept_another()
        handler = self._handlers.get(event.call_details.method)
        if handler is None:
            status = ops.send_status(grpc.StatusCode.UNIMPLEMENTED, "Method not found!", ())
            self._post(lambda _: self._on_unknown(), None)
            self._under_way.start(event.call, (ops.send_headers(), ops.receive_close(), status), done)
            return
        kind = StreamCall if handler.response_streaming else Call
        kind(
            event.call, handler, ops.deadline_s(event), self._post, self._tasks, self._unanswered, self._under_way
        ).begin()

    def _shut_down(self, event: ops.Event) -> None:
        self._post(lambda _: self._is_quiet.set(), None)

    def _post(self, act: Callable[[Any], object], value: Any) -> None:
        self._wanted.append((act, value))
        if not self._is_told:
            self._is_told = True
            self._loop.call_soon_threadsafe(self._act)

    # On the event loop.

    def _act(self) -> None:
        # First, so that what is added from here on either is seen below or wakes the loop again.
        self._is_told = False
        wanted = self._wanted
        while wanted:
            act, value = wanted.popleft()
            try:
                act(value)
            except Exception:
                _log.exception("a call could not be served")
