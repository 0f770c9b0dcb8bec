"""Answers of the task API's classifiers, in pieces (see pieces.py): a model may have tens of thousands of classes."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from resonnx_proto.v1 import vision_pb2

from resonnx_server.rpc.pieces import Work
from resonnx_server.scheduling.session_pool import Tensors

# Classes that are written at once: about a millisecond.
_WRITTEN: Final = 1 << 8


def classify_response(
    outputs: Tensors, labels: Sequence[str], top_k: int, *, features: bool
) -> Work[vision_pb2.ClassifyResponse]:
    """Return the answer's best classes, best first, and its features.

    Args:
        outputs: The model's for one picture: `probabilities` [1,K] and `features` [1,D].
        labels: Of the K classes.
        top_k: How many of them, 1..K.
        features: The caller wants them.
    """
    probabilities = outputs["probabilities"][0]
    best = np.argpartition(-probabilities, top_k - 1)[:top_k]
    best = best[np.lexsort((best, -probabilities[best]))]
    response = vision_pb2.ClassifyResponse()
    for start in range(0, top_k, _WRITTEN):
        for index in best[start : start + _WRITTEN].tolist():
            response.predictions.add(label=labels[index], index=index, score=float(probabilities[index]))
        yield
    if features:
        response.features.extend(outputs["features"][0].tolist())
    return response
