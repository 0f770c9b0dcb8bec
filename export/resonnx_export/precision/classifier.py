"""Replaces an export's graph by one that is stored in int8 or float16, and writes into the manifest what that costs.

Comes after the proof: the graph in float32 equals PyTorch, this one lies as far from PyTorch as the manifest says.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.golden_examples import Golden
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE, ENCODER_FILE

from resonnx_export.errors import BadInput
from resonnx_export.networks import CaptionNetwork, ClassifierNetwork
from resonnx_export.pictures.calibration import Calibration, read_calibration
from resonnx_export.pictures.recipe import check_pictures, sample_rows
from resonnx_export.precision.bounds import measure_captioner, measure_classifier, stored_bound
from resonnx_export.precision.fp16 import to_fp16
from resonnx_export.precision.guard import Guarded, Limits, quantise_within
from resonnx_export.progress import Progress
from resonnx_export.proof.agreement import CaptionerJudge, ClassifierJudge, Judge
from resonnx_export.proof.predictions import Answers, Pictures
from resonnx_export.proof.speed import times_as_fast

# float16 is judged on so many check pictures, and on a few of them by rounding in PyTorch.
_PICTURES: Final = 32
_ROUNDED_PICTURES: Final = 8
# Held-back pictures from which on their agreement says something: half of what should be given.
_FEW_PICTURES: Final = 32
_SEED: Final = 3000


@dataclass(frozen=True)
class Int8:
    """Store the trunk in int8, within limits."""

    calibration: Calibration
    limits: Limits


@dataclass(frozen=True)
class Fp16:
    """Store the trunk in float16.

    Attributes:
        samples: Pictures that the model is meant for; the check pictures are synthetic without.
    """

    samples: Sequence[Image.Image] = ()


Precision = Literal["fp32", "fp16", "int8"]
Storage = Int8 | Fp16
# A storage that waits for the model's input, which may come from the checkpoint.
StorageFor = Callable[[pb.ImageInput], Storage]


@dataclass(frozen=True)
class Stored:
    """The reduced graph, and what goes with it.

    Attributes:
        model: The ONNX file.
        golden: Examples that it agrees with.
        answers: What it was judged by.
        bound: What the answers' differences may be.
        notes: For the person who exports.
    """

    model: bytes
    golden: Golden
    answers: Answers
    bound: float
    notes: tuple[str, ...]


def choose_storage(
    precision: Precision,
    calibration: Path | None,
    limits: Limits,
    samples: Sequence[Image.Image] = (),
    labels: Sequence[str] = (),
) -> StorageFor | None:
    """Turn what a command was given into a storage; None is float32.

    Args:
        precision: --precision.
        calibration: --calibration, a folder.
        limits: Of int8.
        samples: As Fp16's.
        labels: A classifier's.

    Raises:
        BadInput: The options do not fit together; later, when it is called, as read_calibration.
    """
    if precision != "int8":
        if calibration is not None:
            raise BadInput(f"--calibration goes with --precision int8, not {precision}")
        return None if precision == "fp32" else lambda recipe: Fp16(samples)
    if calibration is None:
        raise BadInput("--precision int8 needs --calibration, a folder of pictures that the model is meant for")
    return lambda recipe: Int8(read_calibration(calibration, recipe, labels), limits)


def store_classifier(
    model: bytes, network: ClassifierNetwork, manifest: pb.Manifest, storage: Storage, tell: Progress
) -> Stored:
    """Reduce model.onnx.

    Args:
        model: The ONNX file in float32, proved.
        network: What it was traced from.
        manifest: Gets the file's precision, its bound, and what was measured.
        storage: Into what.
        tell: Hears what is being done.

    Raises:
        ParityFailed: The result would be too far from float32.
    """
    pictures = _pictures(storage, manifest.input)
    truths = storage.calibration.truths if isinstance(storage, Int8) else None
    judge = ClassifierJudge(network, manifest, pictures, truths)
    rounding = 0.0
    if isinstance(storage, Fp16):
        rounding = measure_classifier(network, pictures.pixels[:_ROUNDED_PICTURES], manifest.input)[torch.float16]
    return _store(CLASSIFIER_FILE, model, judge, manifest, storage, rounding, tell)


def store_encoder(
    encoder: bytes, decoder: bytes, network: CaptionNetwork, manifest: pb.Manifest, storage: Storage, tell: Progress
) -> Stored:
    """Reduce encoder.onnx, beside decoder.onnx as it is to be served; otherwise as store_classifier."""
    pictures = _pictures(storage, manifest.input)
    judge = CaptionerJudge(network, manifest, decoder, pictures)
    rounding = 0.0
    if isinstance(storage, Fp16):
        images = pictures.pixels[:_ROUNDED_PICTURES]
        deviations = measure_captioner(network, images, manifest.input, manifest.captioner)
        rounding = deviations[ENCODER_FILE][torch.float16]
    return _store(ENCODER_FILE, encoder, judge, manifest, storage, rounding, tell)


def _pictures(storage: Storage, recipe: pb.ImageInput) -> Pictures:
    if isinstance(storage, Int8):
        pixels = storage.calibration.held_back
        return Pictures(pixels, "held-back pictures", tuple(range(len(pixels))))
    pixels = check_pictures(recipe, _PICTURES, _SEED, storage.samples)
    return Pictures(pixels, "check pictures", tuple(sample_rows(_PICTURES)) if storage.samples else ())


def _store(
    file: str, model: bytes, judge: Judge, manifest: pb.Manifest, storage: Storage, rounding: float, tell: Progress
) -> Stored:
    """Reduce a file; `rounding` is what its arithmetic deviates by on devices that compute as it is stored."""
    if isinstance(storage, Int8):
        precision, name = pb.PRECISION_INT8, "int8"
        reduced = quantise_within(storage.limits, model, storage.calibration.fit, judge, tell)
    else:
        precision, name = pb.PRECISION_FP16, "fp16"
        tell("converting to float16")
        converted = to_fp16(model)
        reduced = Guarded(converted, judge(converted), ())
    golden, golden_deviation = judge.golden(reduced.model)
    deviation = max(reduced.judgement.deviation, golden_deviation, rounding)
    bound = stored_bound(file, precision, deviation)
    others = [other for other in manifest.precisions if other.file != file]
    del manifest.precisions[:]
    manifest.precisions.extend([*others, bound])
    manifest.stored[file] = precision
    answers = judge.answers(reduced.model)
    agreement = _agreement(bound, answers.pictures.kind, reduced)
    manifest.parity.agreements.append(agreement)
    notes = _notes(name, answers.pictures.kind, reduced, len(model))
    if isinstance(storage, Int8):
        notes.append(_speed_note(times_as_fast(model, reduced.model, answers.pictures.pixels)))
    return Stored(reduced.model, golden, answers, agreement.bound, tuple(notes))


def _agreement(bound: pb.PrecisionBound, asked: str, reduced: Guarded) -> pb.Agreement:
    judgement = reduced.judgement
    agreement = pb.Agreement(
        file=bound.file,
        precision=bound.precision,
        asked=asked,
        pictures=judgement.pictures,
        identical=judgement.identical,
        max_abs_difference=judgement.difference,
        max_abs_reference=judgement.scale,
        bound=bound.max_deviation * judgement.scale,
        blocks_in_float=reduced.in_float,
    )
    if judgement.right is not None:
        agreement.right, agreement.right_in_fp32 = judgement.right
    return agreement


def _speed_note(ratios: dict[int, float]) -> str:
    told = ", ".join(f"{ratio:.1f} times as fast as fp32 at {rows} at once" for rows, ratio in ratios.items())
    slower = "" if max(ratios.values()) > 1 else ": serve fp32, unless it is faster where you serve"
    return f"int8 on the CPU provider here: {told}{slower}"


def _notes(name: str, asked: str, reduced: Guarded, size_before: int) -> list[str]:
    judgement = reduced.judgement
    notes = [
        f"{name}: {judgement.identical} of {judgement.pictures} {asked} answered as in fp32 "
        f"({judgement.agreement:.1f} %); {size_before / len(reduced.model):.1f} times smaller"
    ]
    if judgement.right is not None:
        found, before = (100 * right / judgement.pictures for right in judgement.right)
        notes.append(f"{name} accuracy: {found:.2f} % of {judgement.pictures}, in fp32 {before:.2f} %")
    if judgement.pictures < _FEW_PICTURES:
        notes.append(f"{judgement.pictures} pictures prove little: give --calibration 64 or more, of all classes")
    if reduced.in_float:
        notes.append(f"left in fp32, or the limits would be missed: {', '.join(reduced.in_float)}")
    return notes
