"""How far reduced precision moves the answers, and so what a provider may compute in.

Measured in PyTorch by rounding what each layer is given, holds and gives, with sums in float32, as the matrix units of
processors and GPUs do. A whole network in half precision on a CPU gives the same figure five times slower.
"""

import copy
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import numpy as np
import torch
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import DECODER_FILE, ENCODER_FILE, MAX_DEVIATION
from resonnx_server.runtime.pictures.images import Pixels
from torch import Tensor, nn

from resonnx_export.errors import ParityFailed
from resonnx_export.networks import CaptionNetwork, ClassifierNetwork, Encoded
from resonnx_export.proof import reference
from resonnx_export.wording import precision_name

FP32_BOUND: Final = 1e-3
# Twice the measured deviation: the stored pictures and another chip's order of sums differ from what was measured.
_ALLOWANCE: Final = 2.0
_LEAST_BOUND: Final = 5e-4
# Of what is stored in reduced precision.
GREATEST_DEVIATION: Final = MAX_DEVIATION / _ALLOWANCE

Deviations = Mapping[torch.dtype, float]
_Network = TypeVar("_Network", bound=nn.Module)


def fp32_bound(file: str) -> pb.PrecisionBound:
    """Return the bound that every file has."""
    return pb.PrecisionBound(file=file, precision=pb.PRECISION_FP32, max_deviation=FP32_BOUND)


def stored_bound(file: str, precision: pb.Precision, deviation: float) -> pb.PrecisionBound:
    """Return the bound of a file that is stored in reduced precision, from its measured deviation.

    Raises:
        ParityFailed: No server would take it.
    """
    if not deviation <= GREATEST_DEVIATION:
        raise ParityFailed(
            f"{file} in {precision_name(precision)} lies {deviation:.2g} of max|reference| from PyTorch "
            f"(at most {GREATEST_DEVIATION:g})"
        )
    return pb.PrecisionBound(file=file, precision=precision, max_deviation=max(_LEAST_BOUND, _ALLOWANCE * deviation))


def reduced_bounds(file: str, deviations: Deviations) -> list[pb.PrecisionBound]:
    """Turn measured deviations (bfloat16, float16) into the bounds of bf16, fp16 and TF32.

    TF32 rounds to float16's mantissa; where float16 overflowed, bfloat16's coarser one bounds it.
    """
    bf16, fp16 = deviations[torch.bfloat16], deviations[torch.float16]
    tf32 = fp16 if np.isfinite(fp16) else bf16
    measured = {pb.PRECISION_BF16: bf16, pb.PRECISION_FP16: fp16, pb.PRECISION_TF32: tf32}
    bounds = {precision: max(_LEAST_BOUND, _ALLOWANCE * value) for precision, value in measured.items()}
    return [
        pb.PrecisionBound(file=file, precision=precision, max_deviation=bound)
        for precision, bound in bounds.items()
        if bound <= MAX_DEVIATION
    ]


def measure_classifier(network: ClassifierNetwork, images: Pixels, recipe: pb.ImageInput) -> Deviations:
    """Return max|delta| / max|reference| of the logits for bfloat16 and float16, inf where values overflow."""
    exact = reference.classify(network, images, recipe).logits
    return {
        dtype: _deviation(exact, reference.classify(_rounded(network, dtype), images, recipe).logits, 0.0)
        for dtype in (torch.bfloat16, torch.float16)
    }


def measure_captioner(
    network: CaptionNetwork, images: Pixels, recipe: pb.ImageInput, spec: pb.CaptionerSpec
) -> dict[str, Deviations]:
    """Return the deviations by file, of the words' log-probabilities, each file reduced while the other is not.

    The reduced network is fed the words of the exact one: a different word would change all that follow.
    """
    encoded = reference.encode(network, images, recipe)
    captions = reference.caption(network, encoded, spec)
    exact = np.concatenate([caption.log_probs for caption in captions])
    found: dict[str, dict[torch.dtype, float]] = {ENCODER_FILE: {}, DECODER_FILE: {}}
    for dtype in (torch.bfloat16, torch.float16):
        reduced = _rounded(network, dtype)
        encoded_reduced = reference.encode(reduced, images, recipe)
        for file, stepper, start in ((ENCODER_FILE, network, encoded_reduced), (DECODER_FILE, reduced, encoded)):
            # As the judgement does (golden.judge_captions): sure words have log-probabilities next to 0.
            found[file][dtype] = _deviation(exact, follow(stepper, start, captions, spec), 1.0)
    return dict(found)


def _deviation(exact: np.ndarray[Any, Any], found: np.ndarray[Any, Any], least_scale: float) -> float:
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - exact).max()) / max(float(np.abs(exact).max()), least_scale)


@torch.no_grad()
def follow(
    network: CaptionNetwork, encoded: Encoded, captions: list[reference.Caption], spec: pb.CaptionerSpec
) -> np.ndarray[Any, Any]:
    """Return the log-probabilities that `network` gives to the captions' words, one after the other: [sum of T]."""
    state, features, first = encoded
    length = max(len(caption.tokens) for caption in captions)
    tokens = np.zeros((len(captions), length), np.int64)
    for row, caption in enumerate(captions):
        tokens[row, : len(caption.tokens)] = caption.tokens
    targets = torch.from_numpy(tokens)
    token = torch.full((len(captions),), spec.start_id)
    columns = []
    for position in range(length):
        if position == 0 and first is not None:
            log_probs = first
        else:
            log_probs, state, _ = network.step(token, state, features)
        token = targets[:, position]
        columns.append(log_probs.gather(1, token[:, None]))
    scores = torch.cat(columns, dim=1).numpy()
    return np.concatenate([scores[row, : len(caption.tokens)] for row, caption in enumerate(captions)])


@torch.no_grad()
def _rounded(network: _Network, dtype: torch.dtype) -> _Network:
    """Return a float32 copy that rounds weights once, and every layer's inputs and outputs, to `dtype`."""
    rounded = copy.deepcopy(network)
    for value in (*rounded.parameters(), *rounded.buffers()):
        value.copy_(_round(value, dtype))
    for layer in rounded.modules():
        if not list(layer.children()):
            layer.register_forward_pre_hook(lambda _, inputs: _round_all(inputs, dtype))
            layer.register_forward_hook(lambda _, __, output: _round_all(output, dtype))
    return rounded


def _round(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype).to(torch.float32) if value.is_floating_point() else value


def _round_all(values: Any, dtype: torch.dtype) -> Any:
    if isinstance(values, tuple):
        return tuple(_round_all(value, dtype) for value in values)
    return _round(values, dtype) if isinstance(values, Tensor) else values
