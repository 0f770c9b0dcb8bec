"""Calls of the blocking client: connection, deadlines and retries."""

import queue
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
from resonnx_proto.v1 import vision_pb2

from resonnx._clients.blocking.frames import Frames
from resonnx._errors import Cancelled, Internal, InvalidArgument, ResonnxError, from_unreadable
from resonnx._pictures.images import ImageSource, is_sendable, sendable, to_message
from resonnx._results import Classification
from resonnx._rpcs import CLASSIFY_STREAM, CLASSIFY_VIDEO_STREAM, Q, R, Rpc
from resonnx._tasks.classify_video import video_update
from resonnx._transport.access import Access
from resonnx._transport.blocking_channels import BlockingChannels
from resonnx._transport.links import Link, Links
from resonnx._transport.retry import Attempts, Budgets, ClientDefault, Timeout
from resonnx._transport.window import AHEAD, Window, check_concurrency
from resonnx._video_results import VideoUpdate

_T = TypeVar("_T")


class Calls:
    """Makes calls; threads may share it. Methods raise ResonnxError if a call fails.

    Args:
        server: As `server_address` returns it.
        access: Key and TLS.
        timeout_s: Default timeout of calls, including retries; None for no limit.
    """

    def __init__(self, server: str, access: Access, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._budgets = Budgets()
        self._links = Links(server)
        self._connection = BlockingChannels(self._links.targets, access)

    def close(self) -> None:
        """Disconnect. Running calls raise Cancelled, later ones ClientClosed."""
        self._connection.close()

    def image(self, source: ImageSource) -> vision_pb2.Image:
        """Convert a picture to a message that can be sent."""
        return sendable(to_message(source))

    def unary(self, rpc: Rpc[Q, R], request: Q, timeout_s: Timeout) -> R:
        """Make a call of one request and one response."""
        attempts = self._attempts(timeout_s)
        while True:
            link = self._links.next()
            try:
                response: R = self._connection.unary(link, rpc, request, attempts.remaining_s())
                self._links.record(link, None)
                return response
            except grpc.RpcError as error:
                self._links.record(link, error)
                pause_s = attempts.pause_s(error)
            time.sleep(pause_s)

    def stream(self, rpc: Rpc[Q, R], request: Q, read: Callable[[R], _T], timeout_s: Timeout) -> Generator[_T]:
        """Make a call of one request and a stream of responses, which `read` converts."""
        _compress(request)
        return self._stream(rpc, request, read, timeout_s)

    def _stream(self, rpc: Rpc[Q, R], request: Q, read: Callable[[R], _T], timeout_s: Timeout) -> Generator[_T]:
        attempts = self._attempts(timeout_s)
        while True:
            link = self._links.next()
            call = self._connection.stream(link, rpc, request, attempts.remaining_s())
            try:
                for response in self._responses(call, link, attempts):
                    yield read(response)
                return
            except grpc.RpcError as error:
                self._links.record(link, error)
                pause_s = attempts.pause_s(error)
            finally:
                call.cancel()
            time.sleep(pause_s)

    def classify_stream(
        self, images: Iterable[ImageSource], window: Window, timeout_s: float | None
    ) -> Generator[tuple[int, Classification | ResonnxError]]:
        """Send pictures over one stream and yield the index and result of each, in the order of completion."""
        attempts = self._attempts(timeout_s, by_grpc=False)
        pictures = enumerate(images)
        while True:
            # gRPC reads requests in its own thread; the queue keeps `images` in the caller's.
            requests: queue.SimpleQueue[vision_pb2.ClassifyRequest | None] = queue.SimpleQueue()
            for request in window.unanswered():
                requests.put(request)
            link = self._links.next()
            call = self._connection.pipeline(link, CLASSIFY_STREAM, iter(requests.get, None), attempts.remaining_s())
            try:
                yield from self._exchange(pictures, window, requests, self._responses(call, link, attempts))
                return
            except grpc.RpcError as error:
                self._links.record(link, error)
                pause_s = attempts.pause_s(error)
            finally:
                call.cancel()
                requests.put(None)
            time.sleep(pause_s)

    def _exchange(
        self,
        pictures: Iterator[tuple[int, ImageSource]],
        window: Window,
        requests: "queue.SimpleQueue[vision_pb2.ClassifyRequest | None]",
        responses: Iterator[vision_pb2.ClassifyStreamResponse],
    ) -> Generator[tuple[int, Classification | ResonnxError]]:
        while True:
            if window.full:
                response = next(responses, None)
                if response is None:
                    break
                yield window.receive(response)
            picture = next(pictures, None)
            if picture is None:
                break
            index, image = picture
            try:
                content = self.image(image)
            except (OSError, ValueError, InvalidArgument) as error:
                yield index, from_unreadable(error)
            else:
                requests.put(window.send(index, content))
        requests.put(None)
        for response in responses:
            yield window.receive(response)
        window.check_ended()

    def classify_video_stream(self, frames: Frames, timeout_s: float | None) -> Generator[VideoUpdate]:
        """Send frames over one stream and yield its answers."""
        attempts = self._attempts(timeout_s, by_grpc=False)
        while True:
            link = self._links.next()
            begun: Future[Any] = Future()
            call = self._connection.pipeline(link, CLASSIFY_VIDEO_STREAM, frames.attempt(begun), attempts.remaining_s())
            begun.set_result(call)
            try:
                is_final = False
                for response in self._responses(call, link, attempts):
                    frames.final, is_final = True, response.is_final
                    yield video_update(response)
                if not is_final:
                    raise Internal("the server ended the stream without its last answer")
                return
            except grpc.RpcError as error:
                if frames.error is not None:
                    raise frames.error from None
                self._links.record(link, error)
                if frames.final:
                    attempts.answered()
                pause_s = attempts.pause_s(error)
            finally:
                call.cancel()
            time.sleep(pause_s)

    def _responses(self, call: Iterable[_T], link: Link, attempts: Attempts) -> Iterator[_T]:
        """Yield the responses of a call; the first one forbids further attempts."""
        for response in call:
            attempts.answered()
            self._links.record(link, None)
            yield response

    def many(
        self, images: Iterable[ImageSource], ask: Callable[[vision_pb2.Image], _T], concurrency: int
    ) -> Generator[_T | ResonnxError]:
        """Ask for each picture, `concurrency` at a time; yield answers and errors in the order of the pictures."""
        check_concurrency(concurrency)
        self._links.widen(concurrency)
        return self._many(images, ask, concurrency)

    def _many(
        self, images: Iterable[ImageSource], ask: Callable[[vision_pb2.Image], _T], concurrency: int
    ) -> Generator[_T | ResonnxError]:
        pool = ThreadPoolExecutor(concurrency, "resonnx")
        pending: deque[Future[_T | ResonnxError]] = deque()

        def answer(image: ImageSource) -> _T | ResonnxError:
            try:
                message = self.image(image)
            except (OSError, ValueError, InvalidArgument) as error:
                return from_unreadable(error)
            try:
                return ask(message)
            except Cancelled:
                raise
            except ResonnxError as error:
                return error

        try:
            for image in images:
                pending.append(pool.submit(answer, image))
                while pending and (pending[0].done() or len(pending) >= AHEAD * concurrency):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            # If the caller takes no more, calls under way end when they do, or when the client is closed.
            pool.shutdown(wait=False, cancel_futures=True)

    def _attempts(self, timeout_s: Timeout, *, by_grpc: bool = True) -> Attempts:
        timeout_s = self._timeout_s if timeout_s is ClientDefault.TIMEOUT else timeout_s
        return Attempts(timeout_s, self._budgets, len(self._links.targets), by_grpc=by_grpc)


def _compress(request: Any) -> None:
    """Replace a request's picture that is too large to be sent as it is."""
    if isinstance(request, vision_pb2.CaptionRequest) and not is_sendable(request.image):
        request.image.CopyFrom(sendable(request.image))
