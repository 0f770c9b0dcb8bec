"""The asyncio client, with the same methods as the blocking one."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
from resonnx_proto.v1 import vision_pb2

from resonnx._caption_options import CaptionOptions
from resonnx._errors import InvalidArgument, ResonnxError, from_rpc_error, from_unreadable
from resonnx._messages import model_info, model_request, model_summaries
from resonnx._pictures.images import ImageSource, is_sendable, sendable, to_message
from resonnx._results import CaptionResult, Classification, ModelInfo, ModelSummary, Word
from resonnx._tasks.caption import caption_event, caption_request, caption_result
from resonnx._tasks.classify import classification, classify_request
from resonnx._transport.access import Access, Tls
from resonnx._transport.channel import server_address
from resonnx._transport.ending import Ending
from resonnx._transport.loop_channel import LoopChannel
from resonnx._transport.retry import Attempts, ClientDefault, RetryBudget, Timeout
from resonnx._transport.window import Window


class AsyncClient:
    """An asyncio connection to a resonnx server; methods, arguments, results and errors are those of `Client`.

    It connects on first use, in the event loop that runs then; after that loop is closed it may be used in another
    one. Files are read in the event loop: pass bytes if reading is slow. Pictures that must be compressed to fit into a
    message are encoded in a thread.

    Args:
        server: Address, as for `Client`.
        timeout_s: Default timeout of calls, including retries; None for no limit.
        key: API key, as for `Client`.
        tls: As for `Client`.

    Raises:
        OSError: A file of `tls` cannot be read.
        ValueError: `server` is not an address, but for example a URL; or the key cannot be sent.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        timeout_s: float | None = 10.0,
        key: str | None = None,
        tls: Tls | bool | None = None,
    ) -> None:
        self._connect(server_address(server), Access.of(key, tls), timeout_s)

    @classmethod
    def of(cls, server: str, access: Access, timeout_s: float | None) -> Self:
        """Return a client of a server by its address."""
        client = cls.__new__(cls)
        client._connect(server, access, timeout_s)
        return client

    def _connect(self, server: str, access: Access, timeout_s: float | None) -> None:
        self.server = server
        self._timeout_s = timeout_s
        self._budget = RetryBudget()
        self._connection = LoopChannel(server, access)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Disconnect. Running calls of other tasks raise Cancelled, later calls ClientClosed."""
        await self._connection.close()

    async def classify(
        self,
        image: ImageSource,
        model: str,
        *,
        version: int | None = None,
        top_k: int | None = None,
        features: bool = False,
        priority: int | None = None,
        answer_within_s: float | None = None,
        timeout_s: Timeout = ClientDefault.TIMEOUT,
    ) -> Classification:
        """Classify a picture; see `Client.classify`."""
        request = classify_request(
            await _message(image),
            model,
            version=version,
            top_k=top_k,
            features=features,
            priority=priority,
            answer_within_s=answer_within_s,
        )
        response = await self._call("Classify", request, timeout_s)
        return classification(response, features=features)

    async def classify_stream(
        self,
        images: AsyncIterable[ImageSource] | Iterable[ImageSource],
        model: str,
        *,
        version: int | None = None,
        top_k: int | None = None,
        features: bool = False,
        priority: int | None = None,
        answer_within_s: float | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[tuple[int, Classification | ResonnxError]]:
        """Classify many pictures; see `Client.classify_stream`."""
        window = Window(
            model,
            version=version,
            top_k=top_k,
            features=features,
            priority=priority,
            answer_within_s=answer_within_s,
        )
        # call.write() could deadlock with a server that waits for its answers to be read.
        requests: asyncio.Queue[vision_pb2.ClassifyRequest | None] = asyncio.Queue()
        call = self._connection.vision().ClassifyStream(_until_none(requests), timeout=timeout_s)
        ending = Ending(call)
        responses = aiter(call)
        index = 0
        try:
            async for image in _each(images):
                try:
                    content = await _message(image)
                except (OSError, ValueError, InvalidArgument) as error:
                    yield index, from_unreadable(error)
                else:
                    requests.put_nowait(window.send(index, content))
                    if window.full:
                        response = await anext(responses, None)
                        if response is None:
                            break
                        yield window.receive(response)
                index += 1
            requests.put_nowait(None)
            async for response in responses:
                yield window.receive(response)
            window.check_ended()
        except grpc.RpcError as error:
            status = await ending.unmasked(error)
            if status.code() is grpc.StatusCode.OK:
                window.check_ended()
            raise from_rpc_error(status) from error
        except asyncio.CancelledError:
            self._connection.check_cancelled()
            raise
        finally:
            call.cancel()

    async def caption(
        self,
        image: ImageSource,
        model: str,
        *,
        version: int | None = None,
        priority: int | None = None,
        answer_within_s: float | None = None,
        timeout_s: Timeout = ClientDefault.TIMEOUT,
        **options: Unpack[CaptionOptions],
    ) -> CaptionResult:
        """Caption a picture; see `Client.caption`."""
        request = caption_request(
            await _message(image),
            model,
            version=version,
            priority=priority,
            answer_within_s=answer_within_s,
            options=options,
        )
        return caption_result(await self._call("Caption", request, timeout_s))

    def stream_caption(
        self,
        image: ImageSource,
        model: str,
        *,
        version: int | None = None,
        priority: int | None = None,
        answer_within_s: float | None = None,
        timeout_s: Timeout = ClientDefault.TIMEOUT,
        **options: Unpack[CaptionOptions],
    ) -> AsyncGenerator[Word | CaptionResult]:
        """Caption a picture word by word; see `Client.stream_caption`."""
        request = caption_request(
            to_message(image),
            model,
            version=version,
            priority=priority,
            answer_within_s=answer_within_s,
            options=options,
        )
        return self._stream_caption(request, timeout_s)

    async def models(self, *, timeout_s: Timeout = ClientDefault.TIMEOUT) -> tuple[ModelSummary, ...]:
        """List the server's models."""
        request = vision_pb2.ListModelsRequest()
        return model_summaries(await self._call("ListModels", request, timeout_s))

    async def model(
        self, name: str, version: int | None = None, *, timeout_s: Timeout = ClientDefault.TIMEOUT
    ) -> ModelInfo:
        """Describe a model; `version` None for the default version."""
        request = model_request(name, version)
        return model_info(await self._call("GetModel", request, timeout_s))

    def _attempts(self, timeout_s: Timeout) -> Attempts:
        return Attempts(self._timeout_s if timeout_s is ClientDefault.TIMEOUT else timeout_s, self._budget)

    async def _call(self, method: str, request: Any, timeout_s: Timeout) -> Any:
        attempts = self._attempts(timeout_s)
        while True:
            call = getattr(self._connection.vision(), method)
            try:
                return await call(request, timeout=attempts.remaining_s())
            except grpc.RpcError as error:
                pause_s = attempts.pause_s(error)
            except asyncio.CancelledError:
                self._connection.check_cancelled()
                raise
            await asyncio.sleep(pause_s)

    async def _stream_caption(
        self, request: vision_pb2.CaptionRequest, timeout_s: Timeout
    ) -> AsyncGenerator[Word | CaptionResult]:
        attempts = self._attempts(timeout_s)
        if not is_sendable(request.image):
            request.image.CopyFrom(await _sendable(request.image))
        while True:
            call = self._connection.vision().StreamCaption(request, timeout=attempts.remaining_s())
            try:
                async for event in call:
                    attempts.answered()
                    yield caption_event(event)
                return
            except grpc.RpcError as error:
                pause_s = attempts.pause_s(error)
            except asyncio.CancelledError:
                self._connection.check_cancelled()
                raise
            finally:
                call.cancel()
            await asyncio.sleep(pause_s)


async def _message(image: ImageSource) -> vision_pb2.Image:
    return await _sendable(to_message(image))


async def _sendable(message: vision_pb2.Image) -> vision_pb2.Image:
    """Run `sendable` in a thread if it must encode the picture, which takes seconds."""
    return message if is_sendable(message) else await asyncio.to_thread(sendable, message)


async def _until_none(
    requests: asyncio.Queue[vision_pb2.ClassifyRequest | None],
) -> AsyncGenerator[vision_pb2.ClassifyRequest]:
    while (request := await requests.get()) is not None:
        yield request


async def _each(
    images: AsyncIterable[ImageSource] | Iterable[ImageSource],
) -> AsyncGenerator[ImageSource]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    else:
        for image in images:
            yield image
