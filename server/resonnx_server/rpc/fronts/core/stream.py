"""A call with a stream of requests, of answers, or both.

The queue's thread reads ahead and sends buffered answers, so that the loop need not be woken for each message. When a
buffer is full, gRPC's flow control holds back the caller, and `put` the handler.
"""

import asyncio
from typing import Any

from resonnx_server.rpc.fronts.call import StreamCall, read
from resonnx_server.rpc.fronts.core import operations as ops
from resonnx_server.rpc.fronts.core.call import CoreCall
from resonnx_server.rpc.fronts.status import Rejected


class CoreStreamCall(CoreCall, StreamCall):
    """A stream. The lock also guards which operations are under way."""

    is_stream = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._is_reading = self._sent_headers = self._has_begun = False
        # No more requests will come.
        self._ended = False
        # Done when a request has come, or none will.
        self._reader: asyncio.Future[None] | None = None
        # Ends the call once all answers are sent.
        self._status: ops.Operation | None = None

    @property
    def has_begun(self) -> bool:  # type: ignore[override]  # one request is awaited as that of a unary call
        """Whether it is a stream of requests of which one has come."""
        return self._has_begun

    def _receive_first(self) -> None:
        """Wait for the requests. The handler of a stream of requests begins at once."""
        if not self.handler.request_streaming:
            super()._receive_first()
            return
        self._intake.await_message(self)
        self._is_reading = True
        self._start((ops.receive_message(),), self._received_one)
        self._shared.call_soon(self._run_stream, None)

    # On the queue's thread.

    def _received_one(self, event: ops.Event) -> None:
        message = ops.received(event)
        if message is not None:
            self._intake.claim(self._peer, message)
        with self._lock:
            if message is None or self._over:
                self._is_reading, self._ended = False, True
            else:
                self._has_begun = True
                self._unread.push(message)
                self._is_reading = self._unread.has_room and self._intake.may_receive(self)
            if self._is_reading:
                self._intake.await_message(self)
                self._start((ops.receive_message(),), self._received_one)
            else:
                self._intake.receiving.pop(self, None)
            is_awaited = self._reader is not None
        if is_awaited and message is None:
            # Thousands of streams may end at once.
            self._shared.cancel_soon(self._wake_reader)
        elif is_awaited:
            self._shared.call_soon(self._wake_reader, None)

    def _sent(self, event: ops.Event) -> None:
        with self._lock:
            if self._unsent and event.success:
                self._intake.await_reader(self)
                self._start((ops.send_message(self._unsent.pop_to_send()),), self._sent)
            else:
                self._intake.sending.pop(self, None)
                self._is_sending = False
                self._unsent.sent()
                if self._status is not None:
                    self._start((self._status,), self._sent_all)
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
                    self._read_on()
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

    def _read_on(self) -> None:
        """Ask for another request, unless one is asked for or the budget is spent; called with the lock held."""
        if self._is_reading or self._ended or self._over or not self._intake.may_receive(self):
            return
        self._is_reading = True
        self._intake.await_message(self)
        self._start((ops.receive_message(),), self._received_one)

    def resume(self) -> None:
        """Ask for another request: the budget has room again. Called on any thread."""
        with self._lock:
            self._read_on()

    def _begin_to_send(self, message: bytes) -> None:
        self._intake.await_reader(self)
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
        if self._over:
            self._free()
        else:
            self._serve(None)

    def _refuse(self, refusal: Rejected) -> None:
        """End the call."""
        super()._refuse(refusal)
        if self._task is not None:
            self.set_status(*refusal.status)
            self._cancel_task()

    def _free(self) -> None:
        with self._lock:
            self._unread.clear()
            self._unsent.clear()
            self._unsent.sent()
        super()._free()

    def _finish(self, answer: bytes | None) -> None:
        if self._transfer is not None:
            self._transfer.sending()
        with self._lock:
            self._over = True
            status = self._status_operation()
            if self._is_sending:
                self._status = status
            else:
                self._start((*self._headers(), status), self._sent_all)
