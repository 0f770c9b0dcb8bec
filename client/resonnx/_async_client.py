"""The asyncio client: the twin of _client.py, with the same methods.

Runs in the caller's loop and starts no threads.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
from resonnx_proto.v1 import vision_pb2

from resonnx._caption_options import CaptionOptions
from resonnx._channel import OPTIONS, server_address, vision_stub
from resonnx._ending import Ending
from resonnx._errors import InvalidArgument, ResonnxError, from_rpc_error
from resonnx._images import ImageSource, to_message
from resonnx._messages import (
    caption_event,
    caption_request,
    caption_result,
    classification,
    classify_request,
    model_info,
    model_request,
    model_summaries,
)
from resonnx._results import CaptionResult, Classification, ModelInfo, ModelSummary, Word
from resonnx._retry import Attempts, RetryBudget
from resonnx._window import Window


class AsyncClient:
    """A connection to a resonnx server, for one event loop.

    Methods, arguments, results and errors are `Client`'s. Make it inside the running loop that will
    use it. A path is read in that loop: hand over bytes where the disk is slow.

    Args:
        server: "host:port"; default $RESONNX_SERVER, else "localhost:8001".
        timeout_s: How long a call may take, retries included, where the call does not say.

    Raises:
        RuntimeError: No event loop is running.
    """

    def __init__(self, server: str | None = None, *, timeout_s: float = 10.0) -> None:
        # Without it gRPC would bind the channel to some other loop and say nothing.
        asyncio.get_running_loop()
        self.server = server_address(server)
        self._timeout_s = timeout_s
        self._budget = RetryBudget()
        self._channel = grpc.aio.insecure_channel(self.server, options=OPTIONS)
        self._vision = vision_stub(self._channel)

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
        """Disconnect; calls of other tasks end with asyncio.CancelledError."""
        await self._channel.close()

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
        timeout_s: float | None = None,
    ) -> Classification:
        """Name what a picture shows; see `Client.classify`."""
        request = classify_request(
            to_message(image),
            model,
            version=version,
            top_k=top_k or 0,
            features=features,
            priority=priority,
            answer_within_s=answer_within_s,
        )
        response = await self._call(self._vision.Classify, request, timeout_s)
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
        """Name what many pictures show; see `Client.classify_stream`."""
        window = Window(
            model,
            version=version,
            top_k=top_k or 0,
            features=features,
            priority=priority,
            answer_within_s=answer_within_s,
        )
        # Not call.write(): it could wait for a server that waits for us to read.
        requests: asyncio.Queue[vision_pb2.ClassifyRequest | None] = asyncio.Queue()
        call = self._vision.ClassifyStream(_until_none(requests), timeout=timeout_s)
        ending = Ending(call)
        responses = aiter(call)
        index = 0
        try:
            async for image in _each(images):
                request = window.send(index, image)
                if isinstance(request, InvalidArgument):
                    yield index, request
                else:
                    requests.put_nowait(request)
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
        timeout_s: float | None = None,
        **options: Unpack[CaptionOptions],
    ) -> CaptionResult:
        """Say what a picture shows; see `Client.caption`."""
        request = caption_request(
            to_message(image),
            model,
            version=version,
            priority=priority,
            answer_within_s=answer_within_s,
            options=options,
        )
        return caption_result(await self._call(self._vision.Caption, request, timeout_s))

    def stream_caption(
        self,
        image: ImageSource,
        model: str,
        *,
        version: int | None = None,
        priority: int | None = None,
        answer_within_s: float | None = None,
        timeout_s: float | None = None,
        **options: Unpack[CaptionOptions],
    ) -> AsyncGenerator[Word | CaptionResult]:
        """Say what a picture shows, word by word; see `Client.stream_caption`."""
        request = caption_request(
            to_message(image),
            model,
            version=version,
            priority=priority,
            answer_within_s=answer_within_s,
            options=options,
        )
        return self._stream_caption(request, timeout_s)

    async def models(self, *, timeout_s: float | None = None) -> tuple[ModelSummary, ...]:
        """List the server's models."""
        request = vision_pb2.ListModelsRequest()
        return model_summaries(await self._call(self._vision.ListModels, request, timeout_s))

    async def model(self, name: str, version: int | None = None, *, timeout_s: float | None = None) -> ModelInfo:
        """Describe one model; `version` None for the one that is served by default."""
        request = model_request(name, version)
        return model_info(await self._call(self._vision.GetModel, request, timeout_s))

    def _attempts(self, timeout_s: float | None) -> Attempts:
        return Attempts(self._timeout_s if timeout_s is None else timeout_s, self._budget)

    async def _call(self, method: Callable[..., Any], request: Any, timeout_s: float | None) -> Any:
        attempts = self._attempts(timeout_s)
        while True:
            try:
                return await method(request, timeout=attempts.remaining_s())
            except grpc.RpcError as error:
                pause_s = attempts.pause_s(error)
            await asyncio.sleep(pause_s)

    async def _stream_caption(
        self, request: vision_pb2.CaptionRequest, timeout_s: float | None
    ) -> AsyncGenerator[Word | CaptionResult]:
        attempts = self._attempts(timeout_s)
        while True:
            call = self._vision.StreamCaption(request, timeout=attempts.remaining_s())
            try:
                async for event in call:
                    attempts.answered()
                    yield caption_event(event)
                return
            except grpc.RpcError as error:
                pause_s = attempts.pause_s(error)
            finally:
                call.cancel()
            await asyncio.sleep(pause_s)


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
