"""The blocking client. Starts no threads of its own; one may be shared by many threads."""

import queue
import time
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
from resonnx_proto.v1 import vision_pb2

from resonnx._caption_options import CaptionOptions
from resonnx._errors import ClientClosed, InvalidArgument, ResonnxError, from_rpc_error, from_unreadable
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
from resonnx._pictures.images import ImageSource, sendable, to_message
from resonnx._results import CaptionResult, Classification, ModelInfo, ModelSummary, Word
from resonnx._transport.channel import OPTIONS, server_address, vision_stub
from resonnx._transport.retry import Attempts, ClientDefault, RetryBudget, Timeout
from resonnx._transport.window import Window


class Client:
    """A connection to a resonnx server, made when first needed.

    Pictures are given as `ImageSource` says. Every method raises ResonnxError for what goes wrong
    at the server or on the way there, and OSError, TypeError or ValueError for what is no picture.

    Args:
        server: "host" or "host:port", the port being 8001 if not given; default $RESONNX_SERVER, else "localhost".
        timeout_s: How long a call may take, retries included, where the call does not say; None for no limit.

    Raises:
        ValueError: `server` is no such address, a URL for one.
    """

    def __init__(self, server: str | None = None, *, timeout_s: float | None = 10.0) -> None:
        self.server = server_address(server)
        self._timeout_s = timeout_s
        self._budget = RetryBudget()
        self._closed = False
        self._channel = grpc.insecure_channel(self.server, options=OPTIONS)
        self._vision = vision_stub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect; calls of other threads end with Cancelled, later ones with ClientClosed."""
        self._closed = True
        self._channel.close()

    def classify(
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
        """Name what a picture shows.

        Args:
            image: The picture.
            model: A classifier's name.
            version: None for the one that the server serves by default.
            top_k: Predictions wanted, best first; 5 if not given, or all where there are fewer classes.
            features: Whether to give the feature vector before the model's head as well.
            priority: 1 (first) to 8, of what waits at the server; 4 if not given.
            answer_within_s: How soon after its arrival at the server the request must be answered, or else is
                refused at once or given up; `timeout_s` counts the way there and retries as well. None for no limit.
            timeout_s: For this call, in place of the client's; None for no limit.
        """
        request = classify_request(
            sendable(to_message(image)),
            model,
            version=version,
            top_k=top_k or 0,
            features=features,
            priority=priority,
            answer_within_s=answer_within_s,
        )
        response = self._call(self._vision.Classify, request, timeout_s)
        return classification(response, features=features)

    def classify_stream(
        self,
        images: Iterable[ImageSource],
        model: str,
        *,
        version: int | None = None,
        top_k: int | None = None,
        features: bool = False,
        priority: int | None = None,
        answer_within_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Generator[tuple[int, Classification | ResonnxError]]:
        """Name what many pictures show, over one pipelined stream.

        Pictures are taken in the caller's thread, up to 16 ahead of the answers; an answer may be
        held back until more pictures are taken. A picture that fails, or that the server sheds, has
        its error as its outcome and does not hurt the others.

        Args:
            images: Any number of pictures.
            model: A classifier's name.
            version: None for the one that the server serves by default.
            top_k: Predictions wanted of each, as in classify.
            features: Whether to give feature vectors as well.
            priority: Of each picture, as in classify.
            answer_within_s: For each picture, as in classify: a late one fails alone.
            timeout_s: For the whole stream; None for no limit, as its length is not known.

        Yields:
            The picture's place in `images`, and its outcome; in the order in which they are ready.
        """
        window = Window(
            model,
            version=version,
            top_k=top_k or 0,
            features=features,
            priority=priority,
            answer_within_s=answer_within_s,
        )
        # gRPC takes requests in a thread of its own: a queue keeps `images` in the caller's.
        requests: queue.SimpleQueue[vision_pb2.ClassifyRequest | None] = queue.SimpleQueue()
        call = self._start(self._vision.ClassifyStream, iter(requests.get, None), timeout_s)
        try:
            for index, image in enumerate(images):
                try:
                    content = sendable(to_message(image))
                except (OSError, ValueError, InvalidArgument) as error:
                    yield index, from_unreadable(error)
                    continue
                requests.put(window.send(index, content))
                if window.full:
                    response = next(call, None)
                    if response is None:
                        break
                    yield window.receive(response)
            requests.put(None)
            for response in call:
                yield window.receive(response)
            window.check_ended()
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        finally:
            call.cancel()
            requests.put(None)

    def caption(
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
        """Say what a picture shows.

        Args:
            image: The picture.
            model: A captioner's name.
            version: None for the one that the server serves by default.
            priority: As in classify.
            answer_within_s: As in classify.
            timeout_s: For this call, in place of the client's; None for no limit.
            **options: How to decode; see CaptionOptions.
        """
        request = caption_request(
            sendable(to_message(image)),
            model,
            version=version,
            priority=priority,
            answer_within_s=answer_within_s,
            options=options,
        )
        return caption_result(self._call(self._vision.Caption, request, timeout_s))

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
    ) -> Generator[Word | CaptionResult]:
        """Say what a picture shows, word by word; arguments as for `caption`.

        Yields:
            Each Word of the best caption as it becomes certain; last, the CaptionResult.
        """
        request = caption_request(
            sendable(to_message(image)),
            model,
            version=version,
            priority=priority,
            answer_within_s=answer_within_s,
            options=options,
        )
        return self._stream_caption(request, timeout_s)

    def models(self, *, timeout_s: Timeout = ClientDefault.TIMEOUT) -> tuple[ModelSummary, ...]:
        """List the server's models."""
        request = vision_pb2.ListModelsRequest()
        return model_summaries(self._call(self._vision.ListModels, request, timeout_s))

    def model(self, name: str, version: int | None = None, *, timeout_s: Timeout = ClientDefault.TIMEOUT) -> ModelInfo:
        """Describe one model; `version` None for the one that is served by default."""
        request = model_request(name, version)
        return model_info(self._call(self._vision.GetModel, request, timeout_s))

    def _attempts(self, timeout_s: Timeout) -> Attempts:
        return Attempts(self._timeout_s if timeout_s is ClientDefault.TIMEOUT else timeout_s, self._budget)

    def _start(self, method: Callable[..., Any], request: Any, timeout_s: float | None) -> Any:
        """Begin one attempt of a call: the answer of one that has a single one, else the stream of them."""
        try:
            return method(request, timeout=timeout_s)
        except ValueError:
            # As gRPC says it of a channel that is closed.
            if self._closed:
                raise ClientClosed from None
            raise

    def _call(self, method: Callable[..., Any], request: Any, timeout_s: Timeout) -> Any:
        attempts = self._attempts(timeout_s)
        while True:
            try:
                return self._start(method, request, attempts.remaining_s())
            except grpc.RpcError as error:
                pause_s = attempts.pause_s(error)
            time.sleep(pause_s)

    def _stream_caption(
        self, request: vision_pb2.CaptionRequest, timeout_s: Timeout
    ) -> Generator[Word | CaptionResult]:
        attempts = self._attempts(timeout_s)
        while True:
            call = self._start(self._vision.StreamCaption, request, attempts.remaining_s())
            try:
                for event in call:
                    attempts.answered()
                    yield caption_event(event)
                return
            except grpc.RpcError as error:
                pause_s = attempts.pause_s(error)
            finally:
                call.cancel()
            time.sleep(pause_s)
