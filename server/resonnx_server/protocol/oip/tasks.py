"""The tasks in the tensor protocol: from a request's inputs to the use case, and from its result to outputs."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import numpy as np
from resonnx_proto.v1.manifest_pb2 import CaptionerSpec

from resonnx_server.errors import InvalidInput
from resonnx_server.inference.caption import Captioned, OnWords, caption, captioner
from resonnx_server.inference.classify import classify
from resonnx_server.inference.pictures import DecodedPictures, EncodedPictures, Pictures
from resonnx_server.inference.requests import ActiveRequest
from resonnx_server.inference.tasks import CAPTION, CLASSIFY, TENSORS, VIDEO
from resonnx_server.inference.tensors import Tensors, infer
from resonnx_server.inference.videos.clips import classify_clips
from resonnx_server.protocol.decode_options import decode_options
from resonnx_server.protocol.oip.clips import clips_of
from resonnx_server.protocol.oip.inputs import checked_tensors, overrides_initializers
from resonnx_server.protocol.oip.parameters import RequestParameters
from resonnx_server.protocol.pieces import Pieces, Work, at_once
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.decoding.sequence import Token, text

# Sends outputs before the final ones.
Emit = Callable[[Tensors], None]
Serve = Callable[[ActiveRequest, Tensors, RequestParameters, Emit | None, Pieces], Coroutine[Any, Any, Tensors]]

# Tokens of captions that are joined on the event loop, in a few ms.
_MANY_TOKENS: Final = 1 << 12


async def _classify(
    request: ActiveRequest, inputs: Tensors, parameters: RequestParameters, emit: Emit | None, pieces: Pieces
) -> Tensors:
    return await classify(request, _pictures(inputs))


async def _caption(
    request: ActiveRequest, inputs: Tensors, parameters: RequestParameters, emit: Emit | None, pieces: Pieces
) -> Tensors:
    engine, on_words = captioner(request.model), None
    if parameters.stream:
        if emit is None:
            raise InvalidInput("parameters['stream']", "needs ModelStreamInfer")
        on_words = _word_emitter(emit, engine.spec)
    options = decode_options(parameters.caption, engine, "parameters[{!r}]")
    pictures = _pictures(inputs)
    if on_words is not None and pictures.count != 1:
        raise InvalidInput("parameters['stream']", f"needs a request of one picture; this one has {pictures.count}")
    captions = await caption(request, pictures, options, on_words)
    tensors = caption_tensors(captions, options, engine.spec)
    is_large = len(captions) * options.captions * options.max_tokens > _MANY_TOKENS
    return await pieces.run(tensors) if is_large else at_once(tensors)


async def _infer(
    request: ActiveRequest, inputs: Tensors, parameters: RequestParameters, emit: Emit | None, pieces: Pieces
) -> Tensors:
    whole = overrides_initializers(inputs, request.model)
    return await infer(request, checked_tensors(inputs, request.model), whole=whole)


async def _classify_video(
    request: ActiveRequest, inputs: Tensors, parameters: RequestParameters, emit: Emit | None, pieces: Pieces
) -> Tensors:
    frames, lengths = clips_of(inputs)
    found = await classify_clips(request, frames, lengths)
    return {"probabilities": found.probabilities, "logits": found.logits}


SERVE: Final[Mapping[str, Serve]] = {
    CLASSIFY.name: _classify,
    CAPTION.name: _caption,
    VIDEO.name: _classify_video,
    TENSORS.name: _infer,
}


def _pictures(inputs: Tensors) -> Pictures:
    ((name, image),) = inputs.items()
    if not image.dtype.hasobject:
        return DecodedPictures(image, len(image))
    return EncodedPictures(image.ravel().tolist(), f"inputs[{name!r}]", numbered=True)


def _word_emitter(emit: Emit, spec: CaptionerSpec) -> OnWords:
    """Return a function that emits each word of one picture as BYTES [1,1] and FP32 [1,1]."""

    def on_words(tokens: list[Token]) -> None:
        for token in tokens:
            word = np.array([[spec.vocabulary[token.id].encode()]], object)
            emit({"caption": word, "log_prob": np.array([[token.log_prob]], np.float32)})

    return on_words


def caption_tensors(rows: Sequence[Captioned], options: DecodeOptions, spec: CaptionerSpec) -> Work[Tensors]:
    """Return the captions of several pictures as tensors, in pieces.

    Args:
        rows: Captions of each picture.
        options: Decode options of all of them.
        spec: The captioner's, for its vocabulary.

    Returns:
        caption BYTES and log_prob FP32, [N,n] for n captions a picture, best first. A search that found fewer is
        filled up with empty captions of log_prob -inf.
    """
    shape = (len(rows), options.captions)
    texts, log_probs = np.full(shape, b"", object), np.full(shape, -np.inf, np.float32)
    for row, captioned in enumerate(rows):
        for rank, (sequence, _) in enumerate(captioned.ranked):
            texts[row, rank] = text(sequence.shown(), spec.vocabulary).encode()
            log_probs[row, rank] = sequence.log_prob()
            yield
    return {"caption": texts, "log_prob": log_probs}
