"""The calls in progress: those whose answers are not all sent."""

import asyncio
import threading
from collections.abc import Callable, Collection
from typing import Any

import grpc

from resonnx_server.rpc.fronts.call import Call, Handler

# Called with a function and its argument, from any thread: the event loop calls the function soon.
CallSoon = Callable[[Callable[[Any], object], Any], object]


class ActiveCalls:
    """Calls from the start of their handler until their last message and status are sent.

    Calls are added on the event loop and removed on any thread.
    """

    def __init__(self, call_soon: CallSoon) -> None:
        self._call_soon = call_soon
        self._lock = threading.Lock()
        self._calls: set[Call] = set()
        # The calls that `wait` waits for.
        self._awaited: set[Call] = set()
        self._are_answered = asyncio.Event()

    def add(self, call: Call) -> None:
        """Add a call whose handler begins."""
        with self._lock:
            self._calls.add(call)

    def remove(self, call: Call) -> None:
        """Remove a call that has ended. It may be removed twice, or never have been added."""
        with self._lock:
            self._calls.discard(call)
            if call not in self._awaited:
                return
            self._awaited.remove(call)
            is_last = not self._awaited
        if is_last:
            self._call_soon(lambda _: self._are_answered.set(), None)

    def clear(self) -> None:
        """Remove all calls: none will be answered. On the event loop."""
        with self._lock:
            self._calls.clear()
            self._awaited.clear()
        self._are_answered.set()

    def peers(self, handlers: Collection[Handler]) -> set[str]:
        """Return gRPC's addresses of the clients of the present calls of these handlers."""
        with self._lock:
            calls = [call for call in self._calls if call.handler in handlers]
        return {call.peer() for call in calls}

    def end(self, code: grpc.StatusCode, details: str) -> None:
        """Cancel all handlers and end their calls with a status."""
        with self._lock:
            calls = [*self._calls]
        for call in calls:
            call.end(code, details)

    async def wait(self, handlers: Collection[Handler]) -> None:
        """Wait until the present calls of these handlers have ended; later ones are not waited for."""
        with self._lock:
            self._are_answered.clear()
            self._awaited = {call for call in self._calls if call.handler in handlers}
            if not self._awaited:
                return
        await self._are_answered.wait()
