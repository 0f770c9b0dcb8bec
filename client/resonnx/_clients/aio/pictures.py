"""Methods that classify and caption pictures."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Unpack

from resonnx_proto.v1 import vision_pb2

from resonnx._caption_options import CaptionOptions
from resonnx._clients.aio.connection import Connection
from resonnx._errors import ResonnxError
from resonnx._pictures.images import ImageSource, to_message
from resonnx._results import CaptionResult, Classification, Word
from resonnx._rpcs import CAPTION, CLASSIFY, STREAM_CAPTION
from resonnx._tasks.caption import caption_event, caption_request, caption_result
from resonnx._tasks.classify import classification, classify_request
from resonnx._transport.retry import ClientDefault, Timeout
from resonnx._transport.window import Window


class Pictures(Connection):
    """Classifies and captions pictures."""

    async def classify(
        self,
        image: ImageSource,
        model: str,
        *,
        version: int | str | None = None,
        top_k: int | None = None,
        features: bool = False,
        heatmap: bool = False,
        priority: int | None = None,
        answer_within_s: float | None = None,
        timeout_s: Timeout = ClientDefault.TIMEOUT,
    ) -> Classification:
        """Classify a picture.

        Args:
            image: The picture.
            model: A classifier: NAME, NAME:VERSION or NAME:LABEL.
            version: Number or label of the version, unless `model` has it; None for the default version.
            top_k: Number of predictions, best first; default 5, or all if there are fewer classes.
            features: Whether to return the feature vector, the input of the model's head.
            heatmap: Whether to return a heatmap with each prediction: what each part of the picture adds to it. Models
                that have none raise NoHeatmaps, which says why.
            priority: 1 (first) to 8 in the server's queue; default 4.
            answer_within_s: Deadline in seconds from the request's arrival at the server, which refuses requests that
                cannot meet it. None for no limit. `timeout_s` includes the network and retries as well.
            timeout_s: Timeout of this call; default the client's, None for no limit.
        """
        request = classify_request(
            await self._calls.image(image),
            model,
            version=version,
            top_k=top_k,
            features=features,
            heatmap=heatmap,
            priority=priority,
            answer_within_s=answer_within_s,
        )
        return classification(await self._calls.unary(CLASSIFY, request, timeout_s), features=features)

    def classify_stream(
        self,
        images: AsyncIterable[ImageSource] | Iterable[ImageSource],
        model: str,
        *,
        version: int | str | None = None,
        top_k: int | None = None,
        features: bool = False,
        heatmap: bool = False,
        priority: int | None = None,
        answer_within_s: float | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[tuple[int, Classification | ResonnxError]]:
        """Classify many pictures over one pipelined stream.

        Pictures are read in the caller's thread, up to 16 ahead of the results; a result may be held back until more
        pictures are read. A picture that fails or is refused has an error as its result; the others are not affected.
        A stream that has no answer yet is tried again as any call; one that breaks later raises the error, Unavailable
        if its server went away.

        Args:
            images: Any number of pictures.
            model: As in `classify`.
            version: As in `classify`.
            top_k: As in `classify`.
            features: As in `classify`.
            heatmap: As in `classify`.
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
            heatmap=heatmap,
            priority=priority,
            answer_within_s=answer_within_s,
        )
        return self._calls.classify_stream(images, window, timeout_s)

    def classify_many(
        self,
        images: AsyncIterable[ImageSource] | Iterable[ImageSource],
        model: str,
        *,
        concurrency: int = 16,
        version: int | str | None = None,
        top_k: int | None = None,
        features: bool = False,
        heatmap: bool = False,
        priority: int | None = None,
        answer_within_s: float | None = None,
        timeout_s: Timeout = ClientDefault.TIMEOUT,
    ) -> AsyncGenerator[Classification | ResonnxError]:
        """Classify many pictures, each by a call of its own, several at a time.

        In contrast to `classify_stream`, results are in the order of the pictures, calls are distributed over several
        connections and servers, and each is retried. A picture that cannot be read or whose call fails has an error as
        its result; the others are not affected.

        Args:
            images: Any number of pictures. They are read ahead of the results, up to four times `concurrency`; by
                `Client`, paths and files are read in its threads, one for each call at a time.
            model: As in `classify`.
            concurrency: Calls at a time, 1 to 256.
            version: As in `classify`.
            top_k: As in `classify`.
            features: As in `classify`.
            heatmap: As in `classify`.
            priority: As in `classify`.
            answer_within_s: As in `classify`.
            timeout_s: Timeout of each call; default the client's, None for no limit.

        Yields:
            The result or the error of each picture, in their order.

        Raises:
            ValueError: An argument other than a picture is invalid.
        """

        async def ask(image: vision_pb2.Image) -> Classification:
            request = classify_request(
                image,
                model,
                version=version,
                top_k=top_k,
                features=features,
                heatmap=heatmap,
                priority=priority,
                answer_within_s=answer_within_s,
            )
            return classification(await self._calls.unary(CLASSIFY, request, timeout_s), features=features)

        return self._calls.many(images, ask, concurrency)

    async def caption(
        self,
        image: ImageSource,
        model: str,
        *,
        version: int | str | None = None,
        priority: int | None = None,
        answer_within_s: float | None = None,
        timeout_s: Timeout = ClientDefault.TIMEOUT,
        **options: Unpack[CaptionOptions],
    ) -> CaptionResult:
        """Caption a picture.

        Args:
            image: The picture.
            model: A captioner: NAME, NAME:VERSION or NAME:LABEL.
            version: As in `classify`.
            priority: As in `classify`.
            answer_within_s: As in `classify`.
            timeout_s: Timeout of this call; default the client's, None for no limit.
            **options: Decoding options, see CaptionOptions.
        """
        request = caption_request(
            await self._calls.image(image),
            model,
            version=version,
            priority=priority,
            answer_within_s=answer_within_s,
            options=options,
        )
        return caption_result(await self._calls.unary(CAPTION, request, timeout_s))

    def caption_many(
        self,
        images: AsyncIterable[ImageSource] | Iterable[ImageSource],
        model: str,
        *,
        concurrency: int = 16,
        version: int | str | None = None,
        priority: int | None = None,
        answer_within_s: float | None = None,
        timeout_s: Timeout = ClientDefault.TIMEOUT,
        **options: Unpack[CaptionOptions],
    ) -> AsyncGenerator[CaptionResult | ResonnxError]:
        """Caption many pictures, each by a call of its own, several at a time.

        Results are in the order of the pictures; calls are distributed over several connections and servers. A picture
        that cannot be read or whose call fails has an error as its result; the others are not affected.

        Args:
            images: Any number of pictures. They are read ahead of the results, up to four times `concurrency`; by
                `Client`, paths and files are read in its threads, one for each call at a time.
            model: As in `caption`.
            concurrency: Calls at a time, 1 to 256.
            version: As in `caption`.
            priority: As in `classify`.
            answer_within_s: As in `classify`.
            timeout_s: Timeout of each call; default the client's, None for no limit.
            **options: Decoding options, see CaptionOptions.

        Yields:
            The result or the error of each picture, in their order.

        Raises:
            ValueError: An argument other than a picture is invalid.
        """

        async def ask(image: vision_pb2.Image) -> CaptionResult:
            request = caption_request(
                image,
                model,
                version=version,
                priority=priority,
                answer_within_s=answer_within_s,
                options=options,
            )
            return caption_result(await self._calls.unary(CAPTION, request, timeout_s))

        return self._calls.many(images, ask, concurrency)

    def stream_caption(
        self,
        image: ImageSource,
        model: str,
        *,
        version: int | str | None = None,
        priority: int | None = None,
        answer_within_s: float | None = None,
        timeout_s: Timeout = ClientDefault.TIMEOUT,
        **options: Unpack[CaptionOptions],
    ) -> AsyncGenerator[Word | CaptionResult]:
        """Caption a picture word by word; arguments as for `caption`.

        Yields:
            Each Word of the best caption when it can no longer change; last, the CaptionResult.
        """
        request = caption_request(
            to_message(image),
            model,
            version=version,
            priority=priority,
            answer_within_s=answer_within_s,
            options=options,
        )
        return self._calls.stream(STREAM_CAPTION, request, caption_event, timeout_s)
