"""Caption requests of both protocols to decode options. All numbers are checked before anything is allocated."""

import math
import random
from typing import Final

from resonnx_proto.v1 import vision_pb2
from resonnx_proto.v1.manifest_pb2 import CaptionerSpec

from resonnx_server.errors import InvalidInput
from resonnx_server.inference.caption import CaptionerInfo
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.model_files.spec_faults import MAX_BEAM_WIDTH

_MAX_FORBIDDEN: Final = 256


def decode_options(request: vision_pb2.CaptionRequest, captioner: CaptionerInfo, field: str = "{}") -> DecodeOptions:
    """Return the decode options of a request.

    Args:
        request: Fields that are not set take the model's defaults.
        captioner: The limits of the model.
        field: Format of a field's name in errors.

    Raises:
        InvalidInput: A value is out of range, a word unknown, or two fields contradict each other.
    """
    spec = captioner.spec

    def within(name: str, least: int, most: int) -> int:
        value: int = getattr(request, name)
        if not least <= value <= most:
            raise InvalidInput(field.format(name), f"{value} is not within {least}..{most}")
        return value

    samples = request.temperature != 0
    if not 0 <= request.temperature < math.inf:
        raise InvalidInput(field.format("temperature"), f"{request.temperature} is not a number of 0 or more")
    if not 0 <= request.top_p <= 1:
        raise InvalidInput(field.format("top_p"), f"{request.top_p} is not within 0..1")
    within("top_k", 0, len(spec.vocabulary))
    if samples:
        if request.beam_width > 1:
            raise InvalidInput(
                field.format("beam_width"),
                f"beam_width and temperature exclude each other; {request.beam_width} beams are given",
            )
    else:
        for name, is_set in (("top_k", request.top_k), ("top_p", request.top_p), ("seed", request.HasField("seed"))):
            if is_set:
                raise InvalidInput(field.format(name), "needs a temperature above 0")
    most_beams = min(MAX_BEAM_WIDTH, captioner.capacity)
    beam_width = within("beam_width", 0, most_beams) or (1 if samples else min(spec.beam_width, most_beams) or 1)
    if request.num_captions > beam_width:
        raise InvalidInput(
            field.format("num_captions"),
            f"{request.num_captions} is more than beam_width, which is {beam_width}",
        )
    max_tokens = within("max_tokens", 0, spec.max_tokens) or spec.max_tokens
    prefix = tuple(_word_id(word, captioner, field.format("prefix")) for word in request.prefix[: max_tokens + 1])
    if len(prefix) >= max_tokens and prefix:
        raise InvalidInput(
            field.format("prefix"),
            f"{len(request.prefix)} words; with max_tokens {max_tokens} it may have {max_tokens - 1} at most",
        )
    return DecodeOptions(
        max_tokens=max_tokens,
        min_tokens=within("min_tokens", 0, max_tokens),
        beam_width=beam_width,
        captions=request.num_captions or 1,
        length_normalization=_normalization(request, spec, field),
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p or 1.0,
        seed=request.seed if request.HasField("seed") else random.getrandbits(64),
        forbidden=_forbidden(request, captioner, field.format("forbidden_words")),
        prefix=prefix,
        attention=request.return_attention,
    )


def _normalization(
    request: vision_pb2.CaptionRequest, spec: CaptionerSpec, field: str
) -> CaptionerSpec.LengthNormalization:
    wanted = request.length_normalization or spec.length_normalization
    if wanted not in CaptionerSpec.LengthNormalization.values():
        raise InvalidInput(field.format("length_normalization"), f"{wanted} is not known")
    return wanted


def _forbidden(request: vision_pb2.CaptionRequest, captioner: CaptionerInfo, field: str) -> frozenset[int]:
    words = request.forbidden_words
    if len(words) > _MAX_FORBIDDEN:
        raise InvalidInput(field, f"{len(words)} words; at most {_MAX_FORBIDDEN}")
    forbidden = frozenset(_word_id(word, captioner, field) for word in words)
    # Before min_tokens the end token is forbidden as well; a beam needs another word.
    if len(forbidden.union(captioner.spec.beam_forbidden_ids)) + 1 >= len(captioner.spec.vocabulary):
        raise InvalidInput(field, "all words of the vocabulary are forbidden")
    return forbidden


def _word_id(word: str, captioner: CaptionerInfo, field: str) -> int:
    token = captioner.word_ids.get(word)
    if token is None or token == captioner.spec.end_id:
        raise InvalidInput(field, f"{word[:64]!r} is not a word of the vocabulary")
    return token
