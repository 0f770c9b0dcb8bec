"""Calls of the asyncio client: connection, deadlines and retries."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

import grpc
from resonnx_proto.v1 import vision_pb2

from resonnx._clients.aio.frames import Frames
from resonnx._errors import Cancelled, Internal, InvalidArgument, ResonnxError, from_unreadable
from resonnx._pictures.images import ImageSource, is_sendable, sendable, to_message
from resonnx._results import Classification
from resonnx._rpcs import CLASSIFY_STREAM, CLASSIFY_VIDEO_STREAM, Q, R, Rpc
from resonnx._tasks.classify_video import video_update
from resonnx._transport.access import Access
from resonnx._transport.ending import Ending
from resonnx._transport.links import Link, Links
from resonnx._transport.loop_channels import LoopChannels
from resonnx._transport.retry import Attempts, Budgets, ClientDefault, Timeout
from resonnx._transport.window import AHEAD, Window, check_concurrency
from resonnx._video_results import VideoUpdate

_T = TypeVar("_T")


class Calls:
    """Makes calls, in one event loop at a time. Methods raise ResonnxError if a call fails.

    Args:
        server: As `server_address` returns it.
        access: Key and TLS.
        timeout_s: Default timeout of calls, including retries; None for no limit.
    """

    def __init__(self, server: str, access: Access, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._budgets = Budgets()
        self._links = Links(server)
        self._connection = LoopChannels(self._links.targets, access)

    async def close(self) -> None:
        """Disconnect. Running calls raise Cancelled, later ones ClientClosed."""
        await self._connection.close()

    async def image(self, source: ImageSource) -> vision_pb2.Image:
        """Convert a picture to a message that can be sent."""
        return await _sendable(to_message(source))

    async def unary(self, rpc: Rpc[Q, R], request: Q, timeout_s: Timeout) -> R:
        """Make a call of one request and one response."""
        attempts = self._attempts(timeout_s)
        while True:
            link = self._links.next()
            call = self._connection.unary(link, rpc)
            try:
                response: R = await call(request, timeout=attempts.remaining_s())
                self._links.record(link, None)
                return response
            except grpc.RpcError as error:
                self._links.record(link, error)
                pause_s = attempts.pause_s(error)
            except asyncio.CancelledError:
                self._connection.check_cancelled()
                raise
            await asyncio.sleep(pause_s)

    async def stream(
        self, rpc: Rpc[Q, R], request: Q, read: Callable[[R], _T], timeout_s: Timeout
    ) -> AsyncGenerator[_T]:
        """Make a call of one request and a stream of responses, which `read` converts."""
        attempts = self._attempts(timeout_s)
        await _compress(request)
        while True:
            link = self._links.next()
            call = self._connection.stream(link, rpc)(request, timeout=attempts.remaining_s())
            try:
                async for response in self._responses(call, link, attempts):
                    yield read(response)
                return
            except grpc.RpcError as error:
                self._links.record(link, error)
                pause_s = attempts.pause_s(error)
            except asyncio.CancelledError:
                self._connection.check_cancelled()
                raise
            finally:
                call.cancel()
            await asyncio.sleep(pause_s)

    async def classify_stream(
        self, images: AsyncIterable[ImageSource] | Iterable[ImageSource], window: Window, timeout_s: float | None
    ) -> AsyncGenerator[tuple[int, Classification | ResonnxError]]:
        """Send pictures over one stream and yield the index and result of each, in the order of completion."""
        attempts = self._attempts(timeout_s, by_grpc=False)
        pictures = _numbered(images)
        while True:
            # call.write() could deadlock with a server that waits for its answers to be read.
            requests: asyncio.Queue[vision_pb2.ClassifyRequest | None] = asyncio.Queue()
            for request in window.unanswered():
                requests.put_nowait(request)
            link = self._links.next()
            call = self._connection.pipeline(link, CLASSIFY_STREAM)(
                _until_none(requests), timeout=attempts.remaining_s()
            )
            ending = Ending(call)
            try:
                async for outcome in self._exchange(pictures, window, requests, self._responses(call, link, attempts)):
                    yield outcome
                return
            except grpc.RpcError as error:
                status = await ending.unmasked(error)
                self._links.record(link, status)
                if status.code() is grpc.StatusCode.OK:
                    window.check_ended()
                pause_s = attempts.pause_s(status)
            except asyncio.CancelledError:
                self._connection.check_cancelled()
                raise
            finally:
                call.cancel()
            await asyncio.sleep(pause_s)

    async def _exchange(
        self,
        pictures: AsyncIterator[tuple[int, ImageSource]],
        window: Window,
        requests: "asyncio.Queue[vision_pb2.ClassifyRequest | None]",
        responses: AsyncIterator[vision_pb2.ClassifyStreamResponse],
    ) -> AsyncGenerator[tuple[int, Classification | ResonnxError]]:
        while True:
            if window.full:
                response = await anext(responses, None)
                if response is None:
                    break
                yield window.receive(response)
            picture = await anext(pictures, None)
            if picture is None:
                break
            index, image = picture
            try:
                content = await self.image(image)
            except (OSError, ValueError, InvalidArgument) as error:
                yield index, from_unreadable(error)
            else:
                requests.put_nowait(window.send(index, content))
        requests.put_nowait(None)
        async for response in responses:
            yield window.receive(response)
        window.check_ended()

    async def classify_video_stream(self, frames: Frames, timeout_s: float | None) -> AsyncGenerator[VideoUpdate]:
        """Send frames over one stream and yield its answers."""
        attempts = self._attempts(timeout_s, by_grpc=False)
        try:
            while True:
                link = self._links.next()
                begun: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                call = self._connection.pipeline(link, CLASSIFY_VIDEO_STREAM)(
                    frames.attempt(begun), timeout=attempts.remaining_s()
                )
                begun.set_result(call)
                ending = Ending(call)
                try:
                    is_final = False
                    async for response in self._responses(call, link, attempts):
                        frames.final, is_final = True, response.is_final
                        yield video_update(response)
                    if not is_final:
                        raise Internal("the server ended the stream without its last answer")
                    return
                except grpc.RpcError as error:
                    if frames.error is not None:
                        raise frames.error from None
                    status = await ending.unmasked(error)
                    self._links.record(link, status)
                    if frames.final:
                        attempts.answered()
                    pause_s = attempts.pause_s(status)
                except asyncio.CancelledError:
                    if frames.error is not None:
                        raise frames.error from None
                    self._connection.check_cancelled()
                    raise
                finally:
                    call.cancel()
                await asyncio.sleep(pause_s)
        finally:
            await frames.close()

    async def _responses(self, call: AsyncIterable[_T], link: Link, attempts: Attempts) -> AsyncGenerator[_T]:
        """Yield the responses of a call; the first one forbids further attempts."""
        async for response in call:
            attempts.answered()
            self._links.record(link, None)
            yield response

    def many(
        self,
        images: AsyncIterable[ImageSource] | Iterable[ImageSource],
        ask: Callable[[vision_pb2.Image], Awaitable[_T]],
        concurrency: int,
    ) -> AsyncGenerator[_T | ResonnxError]:
        """Ask for each picture, `concurrency` at a time; yield answers and errors in the order of the pictures."""
        check_concurrency(concurrency)
        self._links.widen(concurrency)
        return self._many(images, ask, concurrency)

    async def _many(
        self,
        images: AsyncIterable[ImageSource] | Iterable[ImageSource],
        ask: Callable[[vision_pb2.Image], Awaitable[_T]],
        concurrency: int,
    ) -> AsyncGenerator[_T | ResonnxError]:
        free = asyncio.Semaphore(concurrency)
        pending: deque[asyncio.Task[_T | ResonnxError]] = deque()

        async def answer(image: ImageSource) -> _T | ResonnxError:
            async with free:
                try:
                    message = await self.image(image)
                except (OSError, ValueError, InvalidArgument) as error:
                    return from_unreadable(error)
                try:
                    return await ask(message)
                except Cancelled:
                    raise
                except ResonnxError as error:
                    return error

        try:
            async for _, image in _numbered(images):
                pending.append(asyncio.create_task(answer(image)))
                while pending and (pending[0].done() or len(pending) >= AHEAD * concurrency):
                    yield await pending.popleft()
            while pending:
                yield await pending.popleft()
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    def _attempts(self, timeout_s: Timeout, *, by_grpc: bool = True) -> Attempts:
        timeout_s = self._timeout_s if timeout_s is ClientDefault.TIMEOUT else timeout_s
        return Attempts(timeout_s, self._budgets, len(self._links.targets), by_grpc=by_grpc)


async def _sendable(message: vision_pb2.Image) -> vision_pb2.Image:
    """Run `sendable` in a thread if it must encode the picture, which takes seconds."""
    return message if is_sendable(message) else await asyncio.to_thread(sendable, message)


async def _compress(request: Any) -> None:
    """Replace a request's picture that is too large to be sent as it is."""
    if isinstance(request, vision_pb2.CaptionRequest) and not is_sendable(request.image):
        request.image.CopyFrom(await _sendable(request.image))


async def _until_none(
    requests: asyncio.Queue[vision_pb2.ClassifyRequest | None],
) -> AsyncGenerator[vision_pb2.ClassifyRequest]:
    while (request := await requests.get()) is not None:
        yield request


async def _numbered(
    images: AsyncIterable[ImageSource] | Iterable[ImageSource],
) -> AsyncGenerator[tuple[int, ImageSource]]:
    index = 0
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield index, image
            index += 1
    else:
        for each in enumerate(images):
            yield each
