"""Bounds of reduced precision: measured deviations, and the precisions that providers may compute in.

Measured in PyTorch by rounding the inputs, weights and outputs of each layer, with sums in float32 as in the matrix
units of processors and GPUs. A whole network in half precision on a CPU gives the same figure five times slower.
"""

import copy
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import numpy as np
import torch
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.golden_examples import Golden, Verdict
from resonnx_server.runtime.model_files.manifest import DECODER_FILE, ENCODER_FILE, MAX_DEVIATION
from resonnx_server.runtime.pictures.images import Pixels
from torch import Tensor, nn

from resonnx_export.errors import ParityFailed
from resonnx_export.networks.protocol import CaptionNetwork
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.proof import reference
from resonnx_export.proof.parity import FP32_BOUND
from resonnx_export.proof.predictions import Predictions
from resonnx_export.wording import precision_name

# Twice the measured deviation: other pictures, and another processor's order of sums, deviate otherwise.
_ALLOWANCE: Final = 2.0
_LEAST_BOUND: Final = 5e-4
# The greatest measured deviation of a quantised file.
GREATEST_DEVIATION: Final = MAX_DEVIATION / _ALLOWANCE

Deviations = Mapping[torch.dtype, float]
_Network = TypeVar("_Network", bound=nn.Module)


def fp32_bound(file: str) -> pb.PrecisionBound:
    """Return the bound of a file in float32."""
    return pb.PrecisionBound(file=file, precision=pb.PRECISION_FP32, max_deviation=FP32_BOUND)


def quantised_bound(file: str, precision: pb.Precision, deviation: float) -> pb.PrecisionBound:
    """Return the bound of a quantised file from its measured deviation. Raises ParityFailed if that is too large."""
    if not deviation <= GREATEST_DEVIATION:
        raise ParityFailed(
            f"{file} in {precision_name(precision)} lies {deviation:.2g} of max|reference| from PyTorch "
            f"(at most {GREATEST_DEVIATION:g})"
        )
    return pb.PrecisionBound(file=file, precision=precision, max_deviation=max(_LEAST_BOUND, _ALLOWANCE * deviation))


def agreement_of(bound: pb.PrecisionBound, predictions: Predictions, difference: float, scale: float) -> pb.Agreement:
    """Return a quantised file's agreement: max|delta| and max|reference| of the compared values."""
    return pb.Agreement(
        file=bound.file,
        precision=bound.precision,
        asked=predictions.pictures.kind,
        pictures=len(predictions.changed),
        identical=int((~predictions.changed).sum()),
        max_abs_difference=difference,
        max_abs_reference=scale,
        bound=bound.max_deviation * scale,
    )


def record(manifest: pb.Manifest, bound: pb.PrecisionBound, *agreements: pb.Agreement) -> None:
    """Write a quantised file's bound, in place of its others, and agreements into the manifest."""
    others = [other for other in manifest.precisions if other.file != bound.file]
    del manifest.precisions[:]
    manifest.precisions.extend([*others, bound])
    manifest.stored[bound.file] = bound.precision
    manifest.parity.agreements.extend(agreements)


def quantised_line(bound: pb.PrecisionBound, verdict: Verdict, pictures: int, same: str) -> str:
    """Describe the comparison of a quantised file with PyTorch. Raises ParityFailed if it did not pass."""
    compared = f"{bound.file} in {precision_name(bound.precision)} against PyTorch in float32"
    if not verdict.passed:
        raise ParityFailed(f"{compared}: {verdict.detail}")
    return f"  {compared}, {pictures} golden pictures: {same}, {verdict.detail}"


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
    network: CaptionNetwork, images: Pixels, golden: Golden, recipe: pb.ImageInput, spec: pb.CaptionerSpec
) -> dict[str, Deviations]:
    """Return the deviations of the words' log-probabilities by file, with that file alone in reduced precision.

    Each step is compared on the exact network's word and state, and the golden captions' words on the reduced network's
    own states, as a server compares them. Deviations of golden captions that no bound permits do not count: a server
    refuses the precision then.
    """
    captions, steps = reference.decode(network, encoded := reference.encode(network, images, recipe), spec)
    words, exact = [caption.tokens for caption in captions], np.concatenate([each.log_probs for each in captions])
    assert golden.tokens is not None
    assert golden.log_probs is not None
    told = golden.tokens >= 0
    golden_words = [row[row >= 0] for row in golden.tokens]
    golden_encoded = reference.encode(network, golden.images, recipe)
    found: dict[str, dict[torch.dtype, float]] = {ENCODER_FILE: {}, DECODER_FILE: {}}
    for dtype in (torch.bfloat16, torch.float16):
        reduced = _rounded(network, dtype)
        starts = [reference.encode(reduced, pixels, recipe) for pixels in (images, golden.images)]
        for file, stepper, (start, golden_start) in (
            (ENCODER_FILE, network, starts),
            (DECODER_FILE, reduced, (encoded, golden_encoded)),
        ):
            # The least scale is judge_captions': sure words have log-probabilities close to 0.
            step = _deviation(exact, reference.follow_steps(stepper, start, words, steps), 1.0)
            followed = reference.follow(stepper, golden_start, golden_words, spec)
            whole = _deviation(golden.log_probs[told], followed, 1.0)
            found[file][dtype] = max(step, whole) if whole <= GREATEST_DEVIATION else step
    return dict(found)


def _deviation(exact: np.ndarray[Any, Any], found: np.ndarray[Any, Any], least_scale: float) -> float:
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - exact).max()) / max(float(np.abs(exact).max()), least_scale)


@torch.no_grad()
def _rounded(network: _Network, dtype: torch.dtype) -> _Network:
    """Return a float32 copy that rounds weights once, and every layer's inputs and outputs, to `dtype`."""
    rounded = copy.deepcopy(network)
    for value in (*rounded.parameters(), *rounded.buffers()):
        value.copy_(_round(value, dtype))
    for layer in rounded.modules():
        if not list(layer.children()):
            layer.register_forward_pre_hook(lambda _, inputs: _round(inputs, dtype))
            layer.register_forward_hook(lambda _, __, output: _round(output, dtype))
    return rounded


def _round(values: Any, dtype: torch.dtype) -> Any:
    if isinstance(values, tuple):
        return tuple(_round(value, dtype) for value in values)
    floating = isinstance(values, Tensor) and values.is_floating_point()
    return values.to(dtype).to(torch.float32) if floating else values
