"""Exports the demonstration models, `digits`, `scenes` and `gestures`, from their weights or from fresh training."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.manifest import read_version

from resonnx_export import captioner, classifier, demo
from resonnx_export.captioner import CaptionerSettings, export_captioner
from resonnx_export.checkpoints.files import load_checkpoint
from resonnx_export.classifier import ClassifierSettings, export_classifier
from resonnx_export.demo import digits, gestures, samples, scenes
from resonnx_export.options import Precision, Target
from resonnx_export.pictures.calibration import Calibration, reference_of
from resonnx_export.pictures.recipe import InputChanges, Size, image_input
from resonnx_export.precision.guard import Limits
from resonnx_export.precision.trunk import StorageFor, fp16, int8
from resonnx_export.progress import progress_bar
from resonnx_export.publish import package
from resonnx_export.publish.package import Exported
from resonnx_export.video_classifier import pipeline
from resonnx_export.video_classifier.pipeline import VideoSettings, export_video
from resonnx_export.vocabulary import Vocabulary

_SAMPLES: Final = 16
# Reference pictures of `scenes`; `digits` has half of the held-out digits.
_SCENES: Final = 400
# The most frames of a clip of `gestures`, which was trained on 24: some seconds of a camera, or a whole animation.
_CLIP_FRAMES: Final = 512
_SEED: Final = 0
_REFERENCE_SEED: Final = 6000


def export_demo(
    repository: Path, *, retrain: bool, precision: Precision = "fp32"
) -> Iterator[tuple[str, Exported | None]]:
    """Export the models, each as its next version; yield the name and the written version.

    A model whose newest version has the same weights and precision is not exported again, and None is yielded. Raises
    as export_classifier.
    """
    with TemporaryDirectory() as temporary:
        folder = _trained(Path(temporary)) if retrain else demo.WEIGHTS
        exports = {"digits": _export_digits, "scenes": _export_scenes, "gestures": _export_gestures}
        for name, export in exports.items():
            weights = folder / f"{name}.safetensors"
            stored: Precision = "fp32" if name == "gestures" and precision == "fp16" else precision
            done = _is_exported(repository / name, weights, stored)
            yield name, None if done else export(weights, Target(repository, name), stored)


def _export_digits(weights: Path, target: Target, precision: Precision) -> Exported:
    recipe = image_input(digits.INPUT_SIZE, resize_short_side=None, mean=demo.MEAN, std=demo.STD)
    pictures = [Image.fromarray(picture) for picture, _ in islice(samples.digits(_SEED), _SAMPLES)]
    storage = _storage(precision, samples.calibration_digits, pictures)
    usual, _ = samples.halves_of_digits()
    reference = reference_of(len(usual), lambda _: map(Image.fromarray, usual))
    settings = ClassifierSettings(recipe, digits.LABELS, storage=storage, samples=pictures, reference=reference)
    with progress_bar(target.name, classifier.stages(settings)) as progress:
        return export_classifier(weights, settings, target, progress)


def _export_scenes(weights: Path, target: Target, precision: Precision) -> Exported:
    pictures = [Image.fromarray(scene.image) for scene in samples.scenes(_SEED, _SAMPLES)]
    settings = CaptionerSettings(
        Vocabulary(scenes.VOCABULARY),
        InputChanges(Size(scenes.INPUT_SIZE, scenes.INPUT_SIZE), mean=demo.MEAN, std=demo.STD),
        max_tokens=scenes.MAX_WORDS + 1,
        storage=_storage(precision, samples.calibration_scenes, pictures),
        samples=pictures,
        reference=reference_of(_SCENES, lambda _: _scenes(_SCENES)),
    )
    with progress_bar(target.name, captioner.stages(settings)) as progress:
        return export_captioner([weights], settings, target, progress)


def _export_gestures(weights: Path, target: Target, precision: Precision) -> Exported:
    frames = [Image.fromarray(frame) for clip in samples.clips(_SEED, 1) for frame in clip.frames]
    settings = VideoSettings(
        gestures.LABELS,
        InputChanges(Size(gestures.INPUT_SIZE, gestures.INPUT_SIZE), mean=demo.MEAN, std=demo.STD),
        max_frames=_CLIP_FRAMES,
        samples=frames[:_SAMPLES],
        # What its file does not record, and training fixes.
        assume={"pooling": "last"},
    )
    with TemporaryDirectory() as folder:
        if precision == "int8":
            samples.write_calibration_clips(Path(folder))
            settings = replace(settings, calibration=Path(folder))
        with progress_bar(target.name, pipeline.stages(settings)) as progress:
            return export_video([weights], settings, target, progress)


def _scenes(count: int) -> Iterator[Image.Image]:
    return (Image.fromarray(scene.image) for scene in samples.scenes(_REFERENCE_SEED, count))


def _storage(
    precision: Precision, calibrate: Callable[[pb.ImageInput], Calibration], pictures: Sequence[Image.Image]
) -> StorageFor | None:
    if precision == "int8":
        return lambda recipe, labels: int8(calibrate(recipe), Limits())
    return (lambda recipe, labels: fp16(pictures)) if precision == "fp16" else None


def _is_exported(model: Path, weights: Path, precision: Precision) -> bool:
    versions = package.versions(model)
    if not versions:
        return False
    try:
        manifest = read_version(model / str(versions[-1])).manifest
    except ModelRefused:
        return False
    stored = {pb.Precision.Value(f"PRECISION_{precision.upper()}")} - {pb.PRECISION_FP32}
    sha256 = load_checkpoint(weights).file.sha256
    return set(manifest.stored.values()) == stored and list(manifest.source.sha256) == [sha256]


def _trained(folder: Path) -> Path:
    """Train the models, and return the folder with their weights."""
    from safetensors.torch import save_file

    from resonnx_export.demo.train import train_digits, train_scenes
    from resonnx_export.demo.train_gestures import train_gestures

    save_file(train_digits(), folder / "digits.safetensors")
    save_file(train_scenes(), folder / "scenes.safetensors")
    save_file(train_gestures(), folder / "gestures.safetensors")
    return folder
