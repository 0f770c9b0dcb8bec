"""Answers of the task API, made of results in pieces (see protocol/pieces.py)."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from resonnx_proto.v1 import vision_pb2 as pb
from resonnx_proto.v1.manifest_pb2 import CaptionerSpec

from resonnx_server.inference.caption import Captioned
from resonnx_server.inference.requests import ActiveRequest
from resonnx_server.inference.tensors import Tensors
from resonnx_server.protocol.pieces import Work
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.decoding.sequence import Token, text

# Classes that are written at once: about a millisecond.
_WRITTEN: Final = 1 << 8


def classify_response(
    outputs: Tensors, labels: Sequence[str], top_k: int, *, features: bool
) -> Work[pb.ClassifyResponse]:
    """Return the answer's best classes, best first, and its features, in pieces: there may be thousands of classes.

    Args:
        outputs: The model's outputs for one picture: `probabilities` [1,K] and `features` [1,D].
        labels: Names of the K classes.
        top_k: Number of classes, 1..K.
        features: Include the features.
    """
    probabilities = outputs["probabilities"][0]
    best = np.argpartition(-probabilities, top_k - 1)[:top_k]
    best = best[np.lexsort((best, -probabilities[best]))]
    response = pb.ClassifyResponse()
    for start in range(0, top_k, _WRITTEN):
        for index in best[start : start + _WRITTEN].tolist():
            response.predictions.add(label=labels[index], index=index, score=float(probabilities[index]))
        yield
    if features:
        response.features.extend(outputs["features"][0].tolist())
    return response


def caption_response(captioned: Captioned, options: DecodeOptions, spec: CaptionerSpec) -> Work[pb.CaptionResponse]:
    """Return the answer's captions, best first, in pieces: an attention may have millions of numbers."""
    response = pb.CaptionResponse()
    for sequence, score in captioned.ranked:
        shown = sequence.shown()
        caption = response.captions.add(text=text(shown, spec.vocabulary), log_prob=sequence.log_prob(), score=score)
        for token in shown:
            caption.words.append(word(token, spec))
            yield
    if options.temperature:
        response.seed = options.seed
    if options.attention:
        response.attention_rows, response.attention_columns = spec.attention_rows, spec.attention_columns
    return response


def word(token: Token, spec: CaptionerSpec) -> pb.Word:
    """Return a word of a caption."""
    attention = () if token.attention is None else token.attention.tolist()
    return pb.Word(text=spec.vocabulary[token.id], token=token.id, log_prob=token.log_prob, attention=attention)


def complete(response: pb.ClassifyResponse | pb.CaptionResponse, identifier: str, request: ActiveRequest) -> None:
    """Set the fields of all answers: the model, the request's id, and its times."""
    timing = request.timing
    assert timing is not None
    response.model, response.version, response.id = request.model.name, request.model.version, identifier
    compute_ns = timing.compute_input_ns + timing.compute_infer_ns + timing.compute_output_ns
    response.timing.decode_us = request.decode_ns // 1000
    response.timing.queue_us = timing.queue_ns // 1000
    response.timing.compute_us = compute_ns // 1000
    response.timing.batch_size = timing.batch_rows
