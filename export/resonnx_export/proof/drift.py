"""Measures how far the rounding of single steps moves the log-probabilities of a whole caption.

A recurrent network carries the rounding of each step into all later ones, and may amplify it: after 50 steps, two
correct implementations can differ by a thousand times the difference of one step.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.golden_examples import MAX_DRIFT
from resonnx_server.runtime.model_files.manifest import DECODER_FILE, ENCODER_FILE
from torch import Tensor

from resonnx_export.networks.protocol import CaptionNetwork, Encoded
from resonnx_export.proof.reference import Caption, Float

# A caption's log-probabilities may differ by this multiple of the drift measured in PyTorch, which is of two random
# disturbances only.
ALLOWANCE: Final = 4.0
_SEEDS: Final = (0, 1)
# Of a tensor's largest value: the least disturbance, because another processor rounds where this one did not.
_EPSILON: Final = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Rounding:
    """The largest |delta| of tensors in comparisons that passed, by name.

    Attributes:
        encoded: Of the encoder's outputs state_i and feature_j.
        stepped: Of the outputs next_state_i of a decoder step.
    """

    encoded: Mapping[str, float]
    stepped: Mapping[str, float]

    @classmethod
    def of(cls, checks: Iterable[pb.ParityCheck], decoder: str = DECODER_FILE) -> "Rounding":
        """Return the rounding in the checks of encoder and decoder, which are named "FILE, CASE: TENSOR"."""
        found: dict[str, dict[str, float]] = {ENCODER_FILE: {}, decoder: {}}
        for check in checks:
            file, tensor = check.name.partition(",")[0], check.name.rpartition(": ")[2]
            if file in found:
                found[file][tensor] = max(found[file].get(tensor, 0.0), check.max_abs_difference)
        return cls(found[ENCODER_FILE], found[decoder])


def comparable_words(drift: Float) -> int:
    """Return the number of a caption's words before the first whose drift [T] exceeds MAX_DRIFT."""
    beyond = ~(drift <= MAX_DRIFT)
    return int(beyond.argmax()) if beyond.any() else len(beyond)


@torch.no_grad()
def permitted_drift(
    network: CaptionNetwork,
    encoded: Encoded,
    captions: Sequence[Caption],
    spec: pb.CaptionerSpec,
    rounding: Rounding,
) -> list[Float]:
    """Return by how much each word's log-probability may differ because of rounding, float32 [T] a caption.

    That is ALLOWANCE times the drift in PyTorch: each caption's words are followed with the state disturbed at each
    step by the rounding, in random directions, and the log-probabilities of the best two words are compared with the
    caption's. It never falls along a caption.

    Args:
        network: The captioner.
        encoded: N encoded pictures.
        captions: Their N greedy captions.
        spec: The decoding rule.
        rounding: What one step may differ by.
    """
    length = max(len(caption.tokens) for caption in captions)
    tokens = torch.zeros(len(captions), length, dtype=torch.int64)
    compared = min(2, len(spec.vocabulary))
    best = torch.zeros(len(captions), length, compared, dtype=torch.int64)
    expected = torch.zeros(len(captions), length, compared)
    for row, caption in enumerate(captions):
        count = len(caption.tokens)
        tokens[row, :count] = torch.from_numpy(caption.tokens)
        scores, ids = torch.from_numpy(caption.step_log_probs).topk(compared, dim=1)
        best[row, :count], expected[row, :count] = ids, scores
    drift = np.zeros((len(captions), length), np.float32)
    for seed in _SEEDS:
        found = _follow_disturbed(network, encoded, tokens, best, spec, rounding, seed)
        drift = np.maximum(drift, (found - expected).abs().amax(dim=2).numpy())
    permitted = np.float32(ALLOWANCE) * np.maximum.accumulate(drift, axis=1)
    return [permitted[row, : len(caption.tokens)] for row, caption in enumerate(captions)]


def _follow_disturbed(
    network: CaptionNetwork,
    encoded: Encoded,
    tokens: Tensor,
    best: Tensor,
    spec: pb.CaptionerSpec,
    rounding: Rounding,
    seed: int,
) -> Tensor:
    """Return log-probabilities [N,T,B] of the words `best` [N,T,B], each step after the words of `tokens` [N,T]."""
    generator = torch.Generator().manual_seed(seed)

    def disturbed(values: Tensor, by: float) -> Tensor:
        signs = torch.randint(0, 2, values.shape, generator=generator) * 2 - 1
        return values + signs * max(by, _EPSILON * float(values.abs().max()))

    start = encoded.named()
    tensors = {name: disturbed(value, rounding.encoded.get(name, 0.0)) for name, value in start.items()}
    state = tuple(tensors[f"state_{i}"] for i in range(len(encoded.state)))
    features = tuple(tensors[f"feature_{j}"] for j in range(len(encoded.features)))
    token = torch.full((len(tokens),), spec.start_id)
    columns = []
    for position in range(tokens.shape[1]):
        if position == 0 and encoded.first_log_probs is not None:
            log_probs = encoded.first_log_probs
        else:
            log_probs, state, _ = network.step(token, state, features)
            state = tuple(disturbed(each, rounding.stepped.get(f"next_state_{i}", 0.0)) for i, each in enumerate(state))
        token = tokens[:, position]
        columns.append(log_probs.gather(1, best[:, position]))
    return torch.stack(columns, dim=1)
