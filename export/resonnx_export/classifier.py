"""Exports a ResNet classifier: checkpoint -> network -> trace -> parity -> precision -> goldens -> package."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE

from resonnx_export.checkpoints.files import SourceFile, load_checkpoint
from resonnx_export.errors import BadInput
from resonnx_export.graphs.trace import trace_classifier
from resonnx_export.layouts.classifiers import recognise_classifier
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.networks import ClassifierNetwork
from resonnx_export.pictures.recipe import check_pictures
from resonnx_export.pictures.recipes import RecipeChoice
from resonnx_export.precision.bounds import measure_classifier, reduced_bounds
from resonnx_export.precision.classifier import StorageFor, store_classifier
from resonnx_export.progress import Progress
from resonnx_export.proof.comparisons import prove_classifier
from resonnx_export.proof.golden_examples import classifier_golden
from resonnx_export.publish import finishing, package
from resonnx_export.publish.finishing import Result, finish
from resonnx_export.publish.manifest import new_manifest
from resonnx_export.publish.package import Exported, Target

# How often export_classifier tells.
STAGES: Final = 6 + finishing.STAGES
# By the names that --activation takes.
ACTIVATIONS: Final = {
    "softmax": pb.ClassifierSpec.ACTIVATION_SOFTMAX,
    "sigmoid": pb.ClassifierSpec.ACTIVATION_SIGMOID,
    "none": pb.ClassifierSpec.ACTIVATION_NONE,
}
_MEASURED_PICTURES: Final = 8
_SEED: Final = 2000


@dataclass(frozen=True)
class ClassifierSettings:
    """What a checkpoint does not say.

    Attributes:
        input: How pictures become the network's input, or by which rule it is chosen once the layout is known.
        labels: One for each class, in order.
        allow_reduced: Whether providers may compute in bf16, fp16 and TF32.
        storage: What to store the trunk in, once the input is known; None for float32.
        samples: Pictures that the model is meant for; the check pictures are synthetic without.
        activation: What makes probabilities of logits.
        stride_in_1x1: See recognise_classifier.
    """

    input: pb.ImageInput | RecipeChoice
    labels: tuple[str, ...]
    allow_reduced: bool = True
    storage: StorageFor | None = None
    samples: Sequence[Image.Image] = ()
    activation: pb.ClassifierSpec.Activation = pb.ClassifierSpec.ACTIVATION_SOFTMAX
    stride_in_1x1: bool = False


def export_classifier(file: Path, settings: ClassifierSettings, target: Target, tell: Progress) -> Exported:
    """Export a checkpoint file to a new version in the model repository.

    Raises:
        BadInput: The checkpoint, the settings or the target; nothing was written.
        ParityFailed: The export is not equal to the checkpoint; nothing was written.
    """
    package.plan(target)
    tell(f"reading {file.name}")
    checkpoint = load_checkpoint(file)
    recognised = recognise_classifier(checkpoint.state_dict, stride_in_1x1=settings.stride_in_1x1)
    recognised = replace(recognised, notes=checkpoint.notes + recognised.notes)
    return export_recognised(recognised, [checkpoint.file], settings, target, tell)


def export_recognised(
    recognised: RecognisedCheckpoint,
    files: Sequence[SourceFile],
    settings: ClassifierSettings,
    target: Target,
    tell: Progress,
) -> Exported:
    """Export a network that is in memory; the rest as export_classifier. `files`: what it came from."""
    folder = package.plan(target)
    network = _checked(recognised, settings)
    recipe, notes = settings.input, recognised.notes
    if isinstance(recipe, RecipeChoice):
        recipe, told = recipe.for_layout(recognised.layout)
        notes += (told,)
    _check_channels(network, recipe)
    spec = pb.ClassifierSpec(labels=settings.labels, feature_size=network.feature_size, activation=settings.activation)
    manifest = new_manifest(recognised, files, recipe, spec)
    storage = settings.storage(recipe) if settings.storage else None

    tell("tracing")
    model = trace_classifier(network, recipe, settings.activation)
    proof = prove_classifier(model, network, manifest, settings.samples, tell)
    manifest.parity.CopyFrom(proof.report)
    answers, bound = proof.answers, proof.bound
    if storage is not None:
        stored = store_classifier(model, network, manifest, storage, tell)
        model, golden, answers, bound = stored.model, stored.golden, stored.answers, stored.bound
        notes += stored.notes
    else:
        if settings.allow_reduced:
            tell("measuring reduced precision")
            images = check_pictures(recipe, _MEASURED_PICTURES, _SEED, settings.samples)
            deviations = measure_classifier(network, images, recipe)
            manifest.precisions.extend(reduced_bounds(CLASSIFIER_FILE, deviations))
        tell("golden examples")
        golden = classifier_golden(network, recipe, settings.samples)
    result = Result({CLASSIFIER_FILE: model}, manifest, golden, answers, bound, notes)
    return finish(result, folder, tell, overwrite=target.overwrite)


def _checked(recognised: RecognisedCheckpoint, settings: ClassifierSettings) -> ClassifierNetwork:
    network = recognised.network
    if not isinstance(network, ClassifierNetwork):
        raise BadInput(f"the checkpoint is a captioner (layout {recognised.layout}), not a classifier")
    if network.num_classes == 0:
        raise BadInput("the checkpoint has no classification layer (fc.weight): it is a trunk only")
    if len(settings.labels) != network.num_classes:
        raise BadInput(f"--labels gives {len(settings.labels)} labels for {network.num_classes} classes")
    return network


def _check_channels(network: ClassifierNetwork, recipe: pb.ImageInput) -> None:
    if network.in_channels not in (1, 3):
        raise BadInput(f"the network takes pictures of {network.in_channels} channels; RGB and grey are exported")
    if network.in_channels == 1 and (len(set(recipe.mean)) > 1 or len(set(recipe.std)) > 1):
        raise BadInput("the network takes grey pictures: give --mean and --std as one number each")
