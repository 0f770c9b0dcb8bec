"""Predictions of PyTorch and of ONNX Runtime for the same pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.pictures.images import Pixels

from resonnx_export.proof.reference import Activation, Float, Tokens

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pictures:
    """Pictures uint8 [N,H,W,3] of a comparison.

    Attributes:
        kind: In words, e.g. "held-back pictures".
        typical: Rows of pictures that are typical of the model's use; the others are synthetic.
        truths: A classifier's correct classes, int64 [N]; None if unknown.
    """

    pixels: Pixels
    kind: str
    typical: tuple[int, ...] = ()
    truths: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class ClassifierPredictions:
    """Logits float32 [N,K] of PyTorch (`expected`) and ONNX Runtime, and whether predictions differ, bool [N]."""

    pictures: Pictures
    expected: Float
    found: Float
    changed: Flags

    @property
    def differences(self) -> list[Float]:
        """|delta| of each logit, float32 [K] a picture."""
        return list(np.abs(self.found - self.expected))


@dataclass(frozen=True)
class CaptionerPredictions:
    """Tokens int64 [T] a picture, of PyTorch (`expected`) and ONNX Runtime (`found`).

    Attributes:
        differences: |delta| of the log-probabilities of PyTorch's words, float32 [T] a picture; empty where ONNX
            Runtime wrote another word.
        compared: The number of words that are compared, a picture; None for all.
    """

    pictures: Pictures
    expected: Sequence[Tokens]
    found: Sequence[Tokens]
    differences: Sequence[Float]
    compared: Sequence[int] | None = None

    @property
    def changed(self) -> Flags:
        """Whether any compared word differs, bool [N]."""
        compared = self.compared or [len(tokens) for tokens in self.expected]
        captions = zip(self.expected, self.found, compared, strict=True)
        return np.array([not same_words(*each) for each in captions], np.bool_)


Predictions = ClassifierPredictions | CaptionerPredictions


@dataclass(frozen=True)
class Comparison:
    """Predictions, and the greatest absolute difference that they may have."""

    predictions: Predictions
    bound: float


def same_words(expected: Tokens, found: Tokens, compared: int) -> bool:
    """Return whether captions have the same first `compared` tokens, and the same length if those are all."""
    if compared < len(expected):
        expected, found = expected[:compared], found[:compared]
    return np.array_equal(expected, found)


def predictions_differ(expected: Float, found: Float, activation: Activation) -> Flags:
    """Return for logits [N,K] whether the predictions differ, bool [N]: the top class, with sigmoids any yes or no."""
    if activation == pb.ClassifierSpec.ACTIVATION_SIGMOID:
        changed: Flags = ((found > 0) != (expected > 0)).any(axis=1)
    else:
        changed = found.argmax(axis=1) != expected.argmax(axis=1)
    return changed


def hardest_first(predictions: Predictions) -> list[int]:
    """Return the rows of distinct pictures: changed predictions first, then by greatest difference."""
    greatest = [float(values.max()) if len(values) else 0.0 for values in predictions.differences]
    order = np.lexsort((-np.array(greatest), ~predictions.changed))
    distinct: dict[bytes, int] = {}
    for row in order.tolist():
        distinct.setdefault(predictions.pictures.pixels[row].tobytes(), row)
    return list(distinct.values())
