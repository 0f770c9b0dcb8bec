"""Exports a ResNet classifier: checkpoint -> network -> trace -> parity -> precision -> goldens -> package."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.manifest import CLASSIFIER_FILE

from resonnx_export import package
from resonnx_export.checkpoint import load_checkpoint
from resonnx_export.errors import BadInput
from resonnx_export.goldens import classifier_golden
from resonnx_export.layouts import Recognised, recognise
from resonnx_export.manifest import new_manifest
from resonnx_export.networks import ResNet
from resonnx_export.package import Exported, Target
from resonnx_export.precision import measure_classifier, reduced_bounds
from resonnx_export.progress import Tell
from resonnx_export.proofs import prove_classifier
from resonnx_export.recipe import check_pictures
from resonnx_export.trace import trace_classifier

# How often export_classifier tells.
STAGES: Final = 7
_MEASURED_PICTURES: Final = 8
_SEED: Final = 2000


@dataclass(frozen=True)
class ClassifierSettings:
    """What a checkpoint does not say.

    Attributes:
        input: How pictures become the network's input.
        labels: One for each class, in order.
        allow_reduced: Whether providers may compute in bf16, fp16 and TF32.
        samples: Pictures that the model is meant for; the check pictures are synthetic without.
    """

    input: pb.ImageInput
    labels: tuple[str, ...]
    allow_reduced: bool = True
    samples: Sequence[Image.Image] = ()


def export_classifier(file: Path, settings: ClassifierSettings, target: Target, tell: Tell) -> Exported:
    """Export a checkpoint file to a new version in the model repository.

    Raises:
        BadInput: The checkpoint, the settings or the target; nothing was written.
        ParityFailed: The export is not equal to the checkpoint; nothing was written.
    """
    folder = package.plan(target)
    tell(f"reading {file.name}")
    checkpoint = load_checkpoint(file)
    recognised = recognise(checkpoint.state_dict)
    network = _checked(recognised, settings)
    spec = pb.ClassifierSpec(labels=settings.labels, feature_size=network.config.feature_size)
    manifest = new_manifest(recognised, [checkpoint.sha256], settings.input, spec)

    tell("tracing")
    model = trace_classifier(network, settings.input)
    manifest.parity.CopyFrom(prove_classifier(model, network, manifest, settings.samples, tell))
    if settings.allow_reduced:
        tell("measuring reduced precision")
        images = check_pictures(settings.input, _MEASURED_PICTURES, _SEED, settings.samples)
        deviations = measure_classifier(network, images, settings.input)
        manifest.precisions.extend(reduced_bounds(CLASSIFIER_FILE, deviations))
    tell("golden examples")
    golden = classifier_golden(network, settings.input, settings.samples)

    tell(f"writing {folder}")
    files = package.version_files({CLASSIFIER_FILE: model}, manifest, golden)
    package.write(folder, files, overwrite=target.overwrite)
    return Exported(folder, manifest, {name: len(content) for name, content in files.items()})


def _checked(recognised: Recognised, settings: ClassifierSettings) -> ResNet:
    network = recognised.network
    if not isinstance(network, ResNet):
        raise BadInput(f"the checkpoint is a captioner (layout {recognised.layout}), not a classifier")
    config = network.config
    if config.num_classes == 0:
        raise BadInput("the checkpoint has no classification layer (fc.weight): it is a trunk only")
    if config.in_channels != 3:
        raise BadInput(f"the network takes pictures of {config.in_channels} channels; only RGB is exported")
    if len(settings.labels) != config.num_classes:
        raise BadInput(f"{len(settings.labels)} labels for {config.num_classes} classes")
    return network
