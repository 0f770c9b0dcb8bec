"""Runs requests of the task API, whichever interface they came through."""

from collections.abc import Callable
from typing import Final

from resonnx_proto.v1 import vision_pb2 as pb
from resonnx_proto.v1.manifest_pb2 import CaptionerSpec

from resonnx_server.access.caller import Caller
from resonnx_server.errors import InvalidInput, NoHeatmaps
from resonnx_server.inference.caption import OnWords, caption, captioner
from resonnx_server.inference.classify import classify
from resonnx_server.inference.pictures import Pictures
from resonnx_server.inference.requests import ActiveRequest, Inference
from resonnx_server.inference.tasks import CAPTION, CLASSIFY
from resonnx_server.protocol.decode_options import decode_options
from resonnx_server.protocol.pieces import Pieces, at_once
from resonnx_server.protocol.vision.answers import PRODUCTS, caption_response, classify_response, complete, word
from resonnx_server.runtime.class_activation import FEATURE_MAP
from resonnx_server.runtime.decoding.sequence import Token
from resonnx_server.runtime.pictures.options import seen_area

# Takes each word of the best caption as it joins the stable prefix; on the event loop.
OnWord = Callable[[pb.Word], object]
# Returns the request's picture. Raises BadImage if it has none.
FindPicture = Callable[[], Pictures]

_DEFAULT_TOP_K: Final = 5
# Classes of an answer that is made on the event loop: a few ms.
_MANY_CLASSES: Final = 1 << 10
# Of each value of a heatmap: in the message, and once it is written.
_HEATMAP_BYTES: Final = 8


class VisionServing:
    """The task API over the loaded models.

    Args:
        inference: The use cases.
        pieces: The thread that makes large answers.
        most_values: Limit of the values of all heatmaps of an answer; None for no limit but that of messages.
    """

    def __init__(self, inference: Inference, pieces: Pieces, most_values: int | None = None) -> None:
        self._inference = inference
        self._pieces = pieces
        self._most_values = most_values

    async def classify(
        self,
        message: pb.ClassifyRequest,
        picture: FindPicture,
        size: int,
        caller_ns: int | None,
        caller: Caller,
        sharing: int = 1,
    ) -> pb.ClassifyResponse:
        """Return the best classes of a picture.

        Args:
            message: The request, whose picture is apart.
            picture: Returns its picture.
            size: Bytes of the request.
            caller_ns: The call's deadline, monotonic ns; None if it has none.
            caller: Who calls.
            sharing: Pictures whose answers are sent as one.

        Raises:
            ServerError: The request is refused, or fails.
        """
        self._inference.models.check(message.model, caller)
        version = message.version_label or message.version
        with (
            self._inference.limited(caller),
            self._inference.begin(
                message.model, version, size, CLASSIFY, caller=caller, identifier=message.id
            ) as request,
        ):
            assert request.model.manifest is not None
            labels = request.model.manifest.classifier.labels
            if message.top_k > len(labels):
                raise InvalidInput("top_k", f"{message.top_k} is not within 0..{len(labels)}")
            request.limit(caller_ns, message.timeout_us, caller.priority(message.priority))
            top_k = message.top_k or min(_DEFAULT_TOP_K, len(labels))
            if message.return_heatmap:
                response = await self._explained(message, request, picture(), top_k, sharing)
            else:
                outputs = await classify(request, picture())
                work = classify_response(outputs, labels, top_k, features=message.return_features)
                # A request that ends meanwhile is no success.
                response = at_once(work) if top_k <= _MANY_CLASSES else await self._pieces.run(work)
        complete(response, message.id, request)
        return response

    async def _explained(
        self, message: pb.ClassifyRequest, request: ActiveRequest, picture: Pictures, top_k: int, sharing: int = 1
    ) -> pb.ClassifyResponse:
        """Return the best classes of a picture with their heatmaps. Raises NoHeatmaps if the model has none."""
        model, heatmaps = request.model, request.model.heatmaps
        assert model.manifest is not None
        if isinstance(heatmaps, str):
            raise NoHeatmaps(f"return_heatmap: model {model.name!r} has no heatmaps: {heatmaps}")
        rows, columns = heatmaps.rows, heatmaps.columns
        if self._most_values is not None and sharing * top_k * rows * columns > self._most_values:
            most = self._most_values // (rows * columns)
            each = "" if sharing == 1 else f" of each of {sharing} pictures"
            asked = f"{top_k} heatmaps of {rows} x {columns} values{each}"
            raise InvalidInput("top_k", f"{asked}; an answer over HTTP has at most {most} of them")
        # What the batch returns, then the answer: numbers as Python's, and as the message's.
        request.hold(heatmaps.map_bytes)
        outputs = await classify(request, picture, (FEATURE_MAP,))
        request.hold(top_k * rows * columns * _HEATMAP_BYTES, answer=True)
        area = seen_area(*picture.size, model.manifest.input)
        labels, features = model.manifest.classifier.labels, message.return_features
        work = classify_response(outputs, labels, top_k, features=features, heatmaps=heatmaps, area=area)
        is_small = top_k <= _MANY_CLASSES and top_k * heatmaps.products <= PRODUCTS
        return at_once(work) if is_small else await self._pieces.run(work)

    async def caption(
        self,
        message: pb.CaptionRequest,
        picture: FindPicture,
        size: int,
        caller_ns: int | None,
        caller: Caller,
        on_word: OnWord | None = None,
    ) -> pb.CaptionResponse:
        """Return the captions of a picture; arguments and errors as of `classify`.

        Args:
            message: The request, whose picture is apart.
            picture: Returns its picture.
            size: Bytes of the request.
            caller_ns: The call's deadline.
            caller: Who calls.
            on_word: Called with each word as it joins the stable prefix of the best caption.
        """
        self._inference.models.check(message.model, caller)
        version = message.version_label or message.version
        with (
            self._inference.limited(caller),
            self._inference.begin(
                message.model, version, size, CAPTION, caller=caller, identifier=message.id
            ) as request,
        ):
            engine = captioner(request.model)
            spec = engine.spec
            options = decode_options(message, engine)
            request.limit(caller_ns, message.timeout_us, caller.priority(message.priority))
            on_words = None if on_word is None else _word_emitter(on_word, spec)
            (captioned,) = await caption(request, picture(), options, on_words)
            work = caption_response(captioned, options, spec)
            response = await self._pieces.run(work) if options.attention else at_once(work)
        complete(response, message.id, request)
        return response


def _word_emitter(emit: OnWord, spec: CaptionerSpec) -> OnWords:
    def on_words(tokens: list[Token]) -> None:
        for token in tokens:
            emit(word(token, spec))

    return on_words
