"""From a video classifier's logits to probabilities, as its manifest says."""

import numpy as np
import numpy.typing as npt
from resonnx_proto.v1.manifest_pb2 import ClassifierSpec

Float = npt.NDArray[np.float32]


def probabilities(logits: Float, activation: ClassifierSpec.Activation) -> Float:
    """Return probabilities float32 [N,K] of logits [N,K]; with ACTIVATION_NONE, the logits as they are."""
    if activation == ClassifierSpec.ACTIVATION_NONE:
        return logits
    if activation == ClassifierSpec.ACTIVATION_SIGMOID:
        # Without overflow: exp of a negative number only.
        decay = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1 / (1 + decay), decay / (1 + decay)).astype(np.float32)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Float = powers / powers.sum(axis=1, keepdims=True)
    return found
