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
from resonnx_server.runtime.class_activation import FEATURE_MAP, ClassActivation
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.decoding.sequence import Token, text
from resonnx_server.runtime.pictures.options import Area

# Classes that are written at once: about a millisecond.
_WRITTEN: Final = 1 << 8
# Products that heatmaps are summed of at once: less than a millisecond.
PRODUCTS: Final = 1 << 21


def classify_response(
    outputs: Tensors,
    labels: Sequence[str],
    top_k: int,
    *,
    features: bool,
    heatmaps: ClassActivation | None = None,
    area: Area = (0, 0, 1, 1),
) -> Work[pb.ClassifyResponse]:
    """Return the answer's best classes, best first, and its features, in pieces: there may be thousands of classes.

    Args:
        outputs: The model's outputs for one picture: `probabilities` [1,K], `features` [1,D], and with heatmaps
            `feature_map` [1,D,rows,columns].
        labels: Names of the K classes.
        top_k: Number of classes, 1..K.
        features: Include the features.
        heatmaps: Computes a heatmap of each class; None for none.
        area: The part of the picture that they cover: left, top, right, bottom, in shares of its width and height.
    """
    probabilities = outputs["probabilities"][0]
    best = np.argpartition(-probabilities, top_k - 1)[:top_k]
    best = best[np.lexsort((best, -probabilities[best]))]
    response = pb.ClassifyResponse()
    at_once = _WRITTEN if heatmaps is None else min(_WRITTEN, 1 + PRODUCTS // heatmaps.products)
    for start in range(0, top_k, at_once):
        chosen = best[start : start + at_once].tolist()
        for index in chosen:
            response.predictions.add(label=labels[index], index=index, score=float(probabilities[index]))
        if heatmaps is not None:
            maps = heatmaps.maps(outputs[FEATURE_MAP][0], chosen)
            for index, each, prediction in zip(chosen, maps, response.predictions[start:], strict=True):
                prediction.heatmap.extend(each.ravel().tolist())
                prediction.heatmap_bias = float(heatmaps.bias[index])
        yield
    if heatmaps is not None:
        response.heatmap_rows, response.heatmap_columns = heatmaps.rows, heatmaps.columns
        left, top, right, bottom = area
        response.heatmap_area.CopyFrom(pb.Area(left=left, top=top, right=right, bottom=bottom))
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


Answer = pb.ClassifyResponse | pb.CaptionResponse | pb.ClassifyVideoResponse | pb.ClassifyVideoStreamResponse


def complete(response: Answer, identifier: str, request: ActiveRequest) -> None:
    """Set the fields of all answers: the model, the request's id, and its times."""
    timing = request.timing
    assert timing is not None
    response.model, response.version, response.id = request.model.name, request.model.version, identifier
    compute_ns = timing.compute_input_ns + timing.compute_infer_ns + timing.compute_output_ns
    response.timing.decode_us = request.decode_ns // 1000
    response.timing.queue_us = timing.queue_ns // 1000
    response.timing.compute_us = compute_ns // 1000
    response.timing.batch_size = timing.batch_rows
