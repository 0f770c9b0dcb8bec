"""Replaces a graph by one with its convolutional trunk in int8 or float16, and records the cost in the manifest.

The float32 graph has been checked before; this one differs from PyTorch by at most the recorded bound.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import torch
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.golden_examples import Golden
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE, ENCODER_FILE
from resonnx_server.runtime.pictures.images import Pixels

from resonnx_export.errors import BadInput, ParityFailed
from resonnx_export.networks.protocol import CaptionNetwork
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.options import Quantisation
from resonnx_export.pictures.calibration import Calibration, read_calibration
from resonnx_export.pictures.synthetic import check_pictures, sample_rows
from resonnx_export.precision.bounds import agreement_of, measure_captioner, measure_classifier, quantised_bound, record
from resonnx_export.precision.fp16 import to_fp16
from resonnx_export.precision.guard import Guarded, Limits, quantise_within
from resonnx_export.precision.judges import CaptionerJudge, ClassifierJudge, Judge
from resonnx_export.progress import Progress
from resonnx_export.proof.predictions import Comparison, Pictures
from resonnx_export.proof.timing import speedups
from resonnx_export.wording import precision_name

# Check pictures for float16, and how many of them are also measured with PyTorch rounding to float16.
_PICTURES: Final = 32
_ROUNDED_PICTURES: Final = 8
# Fewer held-back pictures prove little; half of the recommended calibration pictures.
_FEW_PICTURES: Final = 32
_SEED: Final = 3000


@dataclass(frozen=True)
class Storage:
    """The precision that the trunk is stored in.

    Attributes:
        precision: The manifest's constant.
        pictures: Returns the pictures to judge on.
        reduce: Converts a graph; raises ParityFailed if the limits are exceeded.
        only_if_faster: Stay in float32 where that is as fast on this CPU, or the limits are exceeded.
    """

    precision: pb.Precision
    pictures: Callable[[pb.ImageInput], Pictures]
    reduce: Callable[[bytes, Judge, Progress], Guarded]
    only_if_faster: bool = False


def int8(calibration: Calibration, limits: Limits, *, only_if_faster: bool = False) -> Storage:
    """Return the storage in int8, judged on the held-back pictures."""
    pixels = calibration.held_back
    pictures = Pictures(pixels, "held-back pictures", tuple(range(len(pixels))), calibration.truths)
    return Storage(
        pb.PRECISION_INT8,
        lambda recipe: pictures,
        lambda model, judge, progress: quantise_within(limits, model, calibration.fit, judge, progress),
        only_if_faster,
    )


def fp16(samples: Sequence[Image.Image]) -> Storage:
    """Return the storage in float16, judged on check pictures with typical pictures `samples` among them."""

    def pictures(recipe: pb.ImageInput) -> Pictures:
        pixels = check_pictures(recipe, _PICTURES, _SEED, samples)
        return Pictures(pixels, "check pictures", tuple(sample_rows(_PICTURES)) if samples else ())

    def reduce(model: bytes, judge: Judge, progress: Progress) -> Guarded:
        progress("converting to float16")
        converted = to_fp16(model)
        return Guarded(converted, judge(converted), ())

    return Storage(pb.PRECISION_FP16, pictures, reduce)


# Makes the storage once the model's input and a classifier's labels, in the order of classes, are known: both may come
# from the checkpoint.
StorageFor = Callable[[pb.ImageInput, Sequence[str]], Storage]


@dataclass(frozen=True)
class Quantised:
    """A reduced ONNX file, golden examples that it agrees with, its comparison with PyTorch, and lines for the user."""

    model: bytes
    golden: Golden
    comparison: Comparison
    notes: tuple[str, ...]


@dataclass(frozen=True)
class KeptInFloat:
    """The file stays in float32; `reason` is a line for the user."""

    reason: str


def choose_storage(options: Quantisation, limits: Limits, samples: Sequence[Image.Image] = ()) -> StorageFor | None:
    """Return the storage that the options ask for; None is float32.

    `samples` are typical pictures to judge float16 on. Raises BadInput if the options exclude each other; the storage
    raises it as read_calibration.
    """
    precision, calibration = options.precision, options.calibration
    if precision not in ("int8", "fastest"):
        if calibration is not None:
            raise BadInput(f"--calibration goes with --precision int8 or fastest, not {precision}")
        return None if precision == "fp32" else lambda recipe, labels: fp16(samples)
    if calibration is None:
        raise BadInput(f"--precision {precision} needs --calibration, a folder of typical pictures")
    return lambda recipe, labels: int8(
        read_calibration(calibration, recipe, labels), limits, only_if_faster=precision == "fastest"
    )


def quantise_classifier(
    model: bytes, network: ClassifierNetwork, manifest: pb.Manifest, storage: Storage, progress: Progress
) -> Quantised | KeptInFloat:
    """Reduce the precision of model.onnx, and write precision, bound and agreement into the manifest.

    Args:
        model: The ONNX file in float32, checked.
        network: The network that it was traced from.
        manifest: Is changed.
        storage: The precision to store it in.
        progress: Called as each stage begins.

    Returns:
        The reduced file; KeptInFloat only for a storage with only_if_faster. The manifest is unchanged then.

    Raises:
        ParityFailed: The result would differ too much from float32.
    """
    pictures = storage.pictures(manifest.input)
    judge = ClassifierJudge(network, manifest, pictures)

    def rounding(_: Golden) -> float:
        return measure_classifier(network, pictures.pixels[:_ROUNDED_PICTURES], manifest.input)[torch.float16]

    return reduce_file(CLASSIFIER_FILE, model, judge, manifest, storage, rounding, progress)


def quantise_encoder(
    encoder: bytes, decoder: bytes, network: CaptionNetwork, manifest: pb.Manifest, storage: Storage, progress: Progress
) -> Quantised | KeptInFloat:
    """Reduce the precision of encoder.onnx, with the decoder.onnx that will be served; else as quantise_classifier."""
    pictures = storage.pictures(manifest.input)
    judge = CaptionerJudge(network, manifest, decoder, pictures)

    def rounding(golden: Golden) -> float:
        images = pictures.pixels[:_ROUNDED_PICTURES]
        deviations = measure_captioner(network, images, golden, manifest.input, manifest.captioner)
        return deviations[ENCODER_FILE][torch.float16]

    return reduce_file(ENCODER_FILE, encoder, judge, manifest, storage, rounding, progress)


def reduce_file(
    file: str,
    model: bytes,
    judge: Judge,
    manifest: pb.Manifest,
    storage: Storage,
    rounding: Callable[[Golden], float],
    progress: Progress,
    timed: Pixels | None = None,
) -> Quantised | KeptInFloat:
    """Reduce a file; otherwise as quantise_classifier.

    `rounding` measures the deviation of its arithmetic on devices that compute in float16. `timed` are the pictures
    for its speed, if not those that it is judged on.
    """
    try:
        reduced = storage.reduce(model, judge, progress)
        judgement, predictions = reduced.judgement, reduced.judgement.predictions
        golden, golden_deviation = judge.golden(reduced.model)
        rounded = rounding(golden) if storage.precision == pb.PRECISION_FP16 else 0.0
        bound = quantised_bound(file, storage.precision, max(judgement.deviation, golden_deviation, rounded))
    except ParityFailed as refused:
        if not storage.only_if_faster:
            raise
        return KeptInFloat(f"precision: fp32, as {refused}")
    speed = None
    if storage.precision == pb.PRECISION_INT8:
        progress("measuring int8 against fp32")
        ratios = speedups(model, reduced.model, predictions.pictures.pixels if timed is None else timed)
        speed = _speed_note(ratios)
        if storage.only_if_faster:
            if prod(ratios.values()) <= 1:
                return KeptInFloat(f"precision: fp32, the fastest here; {speed}")
            speed = f"precision: int8, the fastest here; {speed}"
    agreement = agreement_of(bound, predictions, judgement.difference, judgement.scale)
    agreement.blocks_in_float.extend(reduced.in_float)
    if judgement.right is not None:
        agreement.right, agreement.right_in_fp32 = judgement.right
    record(manifest, bound, agreement)
    notes = _notes(precision_name(storage.precision), reduced, len(model))
    if speed is not None:
        notes.append(speed)
    return Quantised(reduced.model, golden, Comparison(predictions, agreement.bound), tuple(notes))


def _speed_note(ratios: dict[int, float]) -> str:
    times = ", ".join(f"{ratio:.1f} times as fast as fp32 at batch {rows}" for rows, ratio in ratios.items())
    slower = "" if max(ratios.values()) > 1 else ": serve fp32, unless int8 is faster on the serving machine"
    return f"int8 on the CPU provider here: {times}{slower}"


def _notes(name: str, reduced: Guarded, size_before: int) -> list[str]:
    judgement = reduced.judgement
    kind = judgement.predictions.pictures.kind
    notes = [
        f"{name}: {judgement.identical} of {judgement.pictures} {kind} predicted as in fp32 "
        f"({judgement.agreement:.1f} %); {size_before / len(reduced.model):.1f} times smaller"
    ]
    if judgement.right is not None:
        found, before = (100 * right / judgement.pictures for right in judgement.right)
        notes.append(f"{name} accuracy: {found:.2f} % of {judgement.pictures}, in fp32 {before:.2f} %")
    if judgement.pictures < _FEW_PICTURES:
        notes.append(f"{judgement.pictures} {kind} prove little: give --calibration 64 or more, of all classes")
    if reduced.in_float:
        notes.append(f"left in fp32 to stay within the limits: {', '.join(reduced.in_float)}")
    return notes
