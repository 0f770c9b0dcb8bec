"""A call with a stream of requests, of answers, or both.

The queue's thread reads a few requests ahead and sends what answers wait, so that the loop need not be woken between
them; beyond a bound the other side waits: who sends, by gRPC's flow control; who answers, for room.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Final

from resonnx_server.rpc.core import operations as ops
from resonnx_server.rpc.core.call import Call, Rejected, done

# Messages of a call that wait in one direction, at most, and their bytes: one more is taken while both hold.
_MOST: Final = 16
_MOST_BYTES: Final = 1 << 20


class _Waiting:
    """Messages that wait."""

    __slots__ = ("_bytes", "_messages")

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._bytes = 0

    def push(self, message: bytes) -> None:
        self._messages.append(message)
        self._bytes += len(message)

    def pop(self) -> bytes:
        message = self._messages.popleft()
        self._bytes -= len(message)
        return message

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def has_room(self) -> bool:
        return len(self._messages) < _MOST and self._bytes < _MOST_BYTES


class StreamCall(Call):
    """See the module. Handlers yield their answers, or write them; requests, if a stream, are an async iterator.

    The lock guards what both threads change: what waits, and which operations are under way.
    """

    __slots__ = (
        "_ended",
        "_is_reading",
        "_is_sending",
        "_lock",
        "_reader",
        "_sent_headers",
        "_status",
        "_unread",
        "_unsent",
        "_writer",
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._lock = threading.Lock()
        self._unread, self._unsent = _Waiting(), _Waiting()
        self._is_reading = self._is_sending = self._sent_headers = False
        # No more requests will come.
        self._ended = False
        # What the handler waits for: a request, and room to write.
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        # What ends the call once all answers are sent.
        self._status: ops.Operation | None = None

    def begin(self) -> None:
        """See Call. A stream of requests is handed over before the first has come."""
        if not self.handler.request_streaming:
            super().begin()
            return
        self._start((ops.receive_close(),), self._closed)
        self._is_reading = True
        self._start((ops.receive_message(),), self._received_one)
        self._post(self._run_stream, None)

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
            self._post(self._wake_reader, None)

    def _sent(self, event: ops.Event) -> None:
        with self._lock:
            if self._unsent and event.success:
                self._start((ops.send_message(self._unsent.pop()),), self._sent)
            else:
                self._is_sending = False
                if self._status is not None:
                    self._start((self._status,), done)
            is_awaited = self._writer is not None and len(self._unsent) <= _MOST // 2 and self._unsent.has_room
        if is_awaited:
            self._post(self._wake_writer, None)

    # On the event loop.

    def __aiter__(self) -> AsyncIterator[Any]:
        """Return the iterator of the requests: the call itself."""
        return self

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
            return self.handler.request_deserializer(message)
        except Rejected as rejected:
            self.set_status(*rejected.status)
            raise
        finally:
            # An error would hold this frame.
            del message

    def put(self, answer: Any) -> "asyncio.Future[None] | None":
        """Send an answer, or have it wait for those before it. What is put after the end of a call is dropped.

        Returns:
            None, or where there is no room for more, what is done when there is.
        """
        message = self.handler.response_serializer(answer)
        with self._lock:
            if self._over:
                return None
            if not self._is_sending:
                self._is_sending = True
                self._start((*self._headers(), ops.send_message(message)), self._sent)
                return None
            self._unsent.push(message)
            if self._unsent.has_room:
                return None
            if self._writer is None:
                self._writer = asyncio.get_running_loop().create_future()
            return self._writer

    async def write(self, answer: Any) -> None:
        """Send an answer and wait until there is room for another. Handlers of other packages know it by this name."""
        room = self.put(answer)
        if room is not None:
            # Shielded: others may wait for it as well.
            await asyncio.shield(room)

    @property
    def unsent(self) -> int:
        """Answers that wait for others to be sent."""
        return len(self._unsent)

    def drop_unsent(self) -> None:
        """Forget them: a call that ends badly need not send them first."""
        with self._lock:
            self._unsent = _Waiting()

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

    def _wake_writer(self, _: None) -> None:
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None and not writer.done():
            writer.set_result(None)

    def _run_stream(self, _: None) -> None:
        if not self._over:
            self._serve(self)

    def _answer(self, request: Any) -> Coroutine[Any, Any, None]:
        handler = self.handler.stream_stream if self.handler.request_streaming else self.handler.unary_stream
        return self._write_all(handler, request)

    async def _write_all(self, handler: Callable[[Any, Any], Any], request: Any) -> None:
        # Called here: of a call that ends before its task begins, nobody would wait for a handler's coroutine.
        answers = handler(request, self)
        if asyncio.iscoroutine(answers):
            await answers
            return
        async with aclosing(answers):
            async for answer in answers:
                await self.write(answer)

    def _serialized(self, answer: None) -> None:
        """All answers are written by now."""

    def _finish(self, answer: bytes | None) -> None:
        with self._lock:
            self._over = True
            status = ops.send_status(self._code, self._details, self._trailers)
            if self._is_sending:
                self._status = status
            else:
                self._start((*self._headers(), status), done)
