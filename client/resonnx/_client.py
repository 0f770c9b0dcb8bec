"""The blocking client. It starts no threads, and threads may share it."""

import queue
import time
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
from resonnx_proto.v1 import vision_pb2

from resonnx._caption_options import CaptionOptions
from resonnx._errors import ClientClosed, InvalidArgument, ResonnxError, from_rpc_error, from_unreadable
from resonnx._messages import model_info, model_request, model_summaries
from resonnx._pictures.images import ImageSource, sendable, to_message
from resonnx._results import CaptionResult, Classification, ModelInfo, ModelSummary, Word
from resonnx._tasks.caption import caption_event, caption_request, caption_result
from resonnx._tasks.classify import classification, classify_request
from resonnx._transport.access import Access, Tls
from resonnx._transport.channel import OPTIONS, server_address, vision_stub
from resonnx._transport.retry import Attempts, ClientDefault, RetryBudget, Timeout
from resonnx._transport.window import Window


class Client:
    """A connection to a resonnx server; it connects on first use.

    Every method raises ResonnxError if the server or the network fails, and OSError, TypeError or ValueError for an
    argument that is not an `ImageSource`.

    Args:
        server: "host" or "host:port"; default $RESONNX_SERVER, else "localhost". The default port is 8001.
        timeout_s: Default timeout of calls, including retries; None for no limit.
        key: API key; default $RESONNX_KEY, else none. Without TLS, whoever sees the traffic sees the key.
        tls: True for TLS with a server whose certificate a well-known authority has signed; Tls(…) for others.

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
        self._closed = False
        self._channel = access.channel(server, OPTIONS)
        self._vision = vision_stub(self._channel, access.metadata)

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
        """Disconnect. Running calls of other threads raise Cancelled, later calls ClientClosed."""
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
        """Classify a picture.

        Args:
            image: The picture.
            model: Name of a classifier.
            version: None for the default version.
            top_k: Number of predictions, best first; default 5, or all if there are fewer classes.
            features: Whether to return the feature vector, the input of the model's head.
            priority: 1 (first) to 8 in the server's queue; default 4.
            answer_within_s: Deadline in seconds from the request's arrival at the server, which refuses requests that
                cannot meet it. None for no limit. `timeout_s` includes the network and retries as well.
            timeout_s: Timeout of this call; default the client's, None for no limit.
        """
        request = classify_request(
            sendable(to_message(image)),
            model,
            version=version,
            top_k=top_k,
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
        """Classify many pictures over one pipelined stream.

        Pictures are read in the caller's thread, up to 16 ahead of the results; a result may be held back until more
        pictures are read. A picture that fails or is refused has an error as its result; the others are not affected.

        Args:
            images: Any number of pictures.
            model: Name of a classifier.
            version: None for the default version.
            top_k: As in `classify`.
            features: As in `classify`.
            priority: Priority of each picture, as in `classify`.
            answer_within_s: Limit of each picture, as in `classify`.
            timeout_s: Limit of the whole stream in seconds; None for no limit.

        Yields:
            A picture's index in `images` and its result, in the order of completion.
        """
        window = Window(
            model,
            version=version,
            top_k=top_k,
            features=features,
            priority=priority,
            answer_within_s=answer_within_s,
        )
        # gRPC reads requests in its own thread; the queue keeps `images` in the caller's.
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
        """Caption a picture.

        Args:
            image: The picture.
            model: Name of a captioner.
            version: None for the default version.
            priority: As in `classify`.
            answer_within_s: As in `classify`.
            timeout_s: Timeout of this call; default the client's, None for no limit.
            **options: Decoding options, see CaptionOptions.
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
        """Caption a picture word by word; arguments as for `caption`.

        Yields:
            Each Word of the best caption when it can no longer change; last, the CaptionResult.
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
        """Describe a model; `version` None for the default version."""
        request = model_request(name, version)
        return model_info(self._call(self._vision.GetModel, request, timeout_s))

    def _attempts(self, timeout_s: Timeout) -> Attempts:
        return Attempts(self._timeout_s if timeout_s is ClientDefault.TIMEOUT else timeout_s, self._budget)

    def _start(self, method: Callable[..., Any], request: Any, timeout_s: float | None) -> Any:
        """Start an attempt of a call and return its response, or its stream of responses."""
        try:
            return method(request, timeout=timeout_s)
        except ValueError:
            # gRPC's error for a closed channel.
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
