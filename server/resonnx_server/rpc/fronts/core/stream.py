"""A call with a stream of requests, of answers, or both.

The queue's thread reads ahead and sends buffered answers, so that the loop need not be woken for each message. When a
buffer is full, gRPC's flow control holds back the caller, and `put` the handler.
"""

import asyncio
from typing import Any

from resonnx_server.rpc.fronts.call import StreamCall, read
from resonnx_server.rpc.fronts.core import operations as ops
from resonnx_server.rpc.fronts.core.call import CoreCall, ignore


class CoreStreamCall(CoreCall, StreamCall):
    """A stream. The lock also guards which operations are under way."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._is_reading = self._sent_headers = False
        # No more requests will come.
        self._ended = False
        # Done when a request has come, or none will.
        self._reader: asyncio.Future[None] | None = None
        # Ends the call once all answers are sent.
        self._status: ops.Operation | None = None

    def begin(self) -> None:
        """Wait for the requests, and for the caller to go. The handler of a stream of requests begins at once."""
        if not self.handler.request_streaming:
            super().begin()
            return
        self._start((ops.receive_close(),), self._closed)
        self._is_reading = True
        self._start((ops.receive_message(),), self._received_one)
        self._shared.call_soon(self._run_stream, None)

    # On the queue's thread.

    def _received_one(self, event: ops.Event) -> None:
        message = ops.received(event)
        with self._lock:
            if message is None:
                self._is_reading, self._ended = False, True
            else:
                self._unread.push(message)
                self._is_reading = self._unread.has_room
            if self._is_reading:
                self._start((ops.receive_message(),), self._received_one)
            is_awaited = self._reader is not None
        if is_awaited:
            self._shared.call_soon(self._wake_reader, None)

    def _sent(self, event: ops.Event) -> None:
        with self._lock:
            if self._unsent and event.success:
                self._start((ops.send_message(self._unsent.pop()),), self._sent)
            else:
                self._is_sending = False
                if self._status is not None:
                    self._start((self._status,), ignore)
            is_awaited = self._is_writer_due()
        if is_awaited:
            self._shared.call_soon(self._wake_writer, None)

    # On the event loop.

    async def __anext__(self) -> Any:
        """Wait for the next request."""
        while True:
            with self._lock:
                if self._unread:
                    message = self._unread.pop()
                    if not self._is_reading and not self._ended and not self._over:
                        self._is_reading = True
                        self._start((ops.receive_message(),), self._received_one)
                    break
                if self._ended or self._over:
                    raise StopAsyncIteration
                self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        try:
            request, unpacked = await read(self, message)
        finally:
            # An error would hold this frame.
            del message
        # From here on the handler charges what it holds.
        unpacked.release()
        return request

    def _begin_to_send(self, message: bytes) -> None:
        self._start((*self._headers(), ops.send_message(message)), self._sent)

    def _headers(self) -> tuple[ops.Operation, ...]:
        if self._sent_headers:
            return ()
        self._sent_headers = True
        return (ops.send_headers(),)

    def _wake_reader(self, _: None) -> None:
        with self._lock:
            reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    def _run_stream(self, _: None) -> None:
        if not self._over:
            self._serve(None)

    def _finish(self, answer: bytes | None) -> None:
        with self._lock:
            self._over = True
            status = ops.send_status(self.code, self.details, self.trailers)
            if self._is_sending:
                self._status = status
            else:
                self._start((*self._headers(), status), ignore)
