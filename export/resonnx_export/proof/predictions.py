"""Pictures with two answers each: what the network says in PyTorch, and what the exported graph says.

The proof and the judges of reduced precision collect them, the report shows them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.pictures.images import Pixels

from resonnx_export.proof.reference import Activation, Float

Tokens = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pictures:
    """What was asked.

    Attributes:
        pixels: uint8 [N,H,W,3].
        kind: In words, e.g. "held-back pictures".
        typical: Rows that are of the kind that the model is meant for; the others are synthetic.
    """

    pixels: Pixels
    kind: str
    typical: tuple[int, ...] = ()


@dataclass(frozen=True)
class ClassifierAnswers:
    """A classifier's answers.

    Attributes:
        pictures: N of them.
        expected: The network's logits, float32 [N,K].
        found: The graph's.
        changed: Whether the answers differ, bool [N]: see answers_change.
    """

    pictures: Pictures
    expected: Float
    found: Float
    changed: Flags

    @property
    def differences(self) -> list[Float]:
        """Return |delta| of each logit, float32 [K] a picture."""
        return list(np.abs(self.found - self.expected))


@dataclass(frozen=True)
class CaptionerAnswers:
    """A captioner's greedy captions.

    Attributes:
        pictures: N of them.
        expected: The network's tokens, int64 [T] a picture.
        found: The graphs'.
        differences: |delta| of the log-probabilities of the network's words, float32 [T] a picture; none where they
            were not compared, as the graphs took another word.
    """

    pictures: Pictures
    expected: Sequence[Tokens]
    found: Sequence[Tokens]
    differences: Sequence[Float]

    @property
    def changed(self) -> Flags:
        """Return whether any word differs, bool [N]."""
        pairs = zip(self.expected, self.found, strict=True)
        return np.array([not np.array_equal(ours, theirs) for ours, theirs in pairs], np.bool_)


Answers = ClassifierAnswers | CaptionerAnswers


def answers_change(expected: Float, found: Float, activation: Activation) -> Flags:
    """Return for logits [N,K] where the answers differ, bool [N]: in the top class, with sigmoids in any yes or no."""
    if activation == pb.ClassifierSpec.ACTIVATION_SIGMOID:
        changed: Flags = ((found > 0) != (expected > 0)).any(axis=1)
    else:
        changed = found.argmax(axis=1) != expected.argmax(axis=1)
    return changed


def worst_first(answers: Answers) -> list[int]:
    """Return the rows of different pictures: those whose answer changed first, then by their greatest difference."""
    greatest = [float(values.max()) if len(values) else 0.0 for values in answers.differences]
    order = np.lexsort((-np.array(greatest), ~answers.changed))
    seen, rows = set(), []
    for row in order.tolist():
        content = answers.pictures.pixels[row].tobytes()
        if content not in seen:
            seen.add(content)
            rows.append(row)
    return rows
