"""Exports a ResNet classifier: checkpoint -> network -> trace -> parity -> precision -> golden examples -> package."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE
from torch import nn

from resonnx_export.answers.agreement import require_agreement
from resonnx_export.answers.recorded import Answers
from resonnx_export.answers.statistics import statistics_hint
from resonnx_export.answers.subject import classifier_subject
from resonnx_export.checkpoints.files import SourceFile
from resonnx_export.errors import BadInput
from resonnx_export.graphs.drift_features import with_drift_features
from resonnx_export.graphs.heatmaps import with_heatmaps
from resonnx_export.graphs.trace import trace_classifier
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.options import Activation, Target
from resonnx_export.pictures.calibration import ReferencePictures
from resonnx_export.pictures.recipes import RecipeChoice
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.precision.bounds import measure_classifier, reduced_bounds
from resonnx_export.precision.trunk import KeptInFloat, Quantised, StorageFor, quantise_classifier
from resonnx_export.progress import Progress
from resonnx_export.proof.comparisons import prove_classifier
from resonnx_export.proof.golden_examples import classifier_golden
from resonnx_export.proof.heatmaps import check_sums, described
from resonnx_export.publish import finishing, package
from resonnx_export.publish.drift_reference import drift_reference, is_possible
from resonnx_export.publish.manifest import new_manifest
from resonnx_export.publish.package import Exported
from resonnx_export.report.page import Result
from resonnx_export.sources.recorded import Recorded
from resonnx_export.sources.source import WEIGHTS, read_source, recognise_source
from resonnx_export.tasks.answers import compare_reduced, require_answers

# How many stages export_classifier has without answers to compare with.
STAGES: Final = 6 + finishing.STAGES
_MEASURED_PICTURES: Final = 8
_SEED: Final = 2000

# Makes model.onnx, as trace_classifier.
Trace = Callable[[ClassifierNetwork, pb.ImageInput, pb.ClassifierSpec.Activation], bytes]


@dataclass(frozen=True)
class ClassifierSettings:
    """Settings that a checkpoint does not record.

    Attributes:
        input: The picture recipe, or the rule that chooses it once the layout is known.
        labels: One for each class, in order; None for those that the checkpoint or its folder has.
        allow_reduced: Whether providers may compute in bf16, fp16 and TF32.
        storage: The precision of the trunk; None for float32.
        samples: Typical pictures; without them, all check pictures are synthetic.
        reference: Pictures with which the server compares those of requests; none of them used in training.
        activation: Turns logits into probabilities; None for softmax, or as the checkpoint's folder says.
        stride_in_1x1: As recognise_classifier's.
        weights: As read_source's.
        notes: Lines for the user about the settings, such as the form of a file with labels.
        assume: Values of properties of the network by name, as recognise_classifier's.
        expect: Answers of the user's own model, which the export must give.
    """

    input: pb.ImageInput | RecipeChoice
    labels: tuple[str, ...] | None
    allow_reduced: bool = True
    storage: StorageFor | None = None
    samples: Sequence[Image.Image] = ()
    reference: ReferencePictures | None = None
    activation: Activation | None = None
    stride_in_1x1: bool = False
    weights: str | None = None
    notes: tuple[str, ...] = ()
    assume: Mapping[str, str] = field(default_factory=dict)
    expect: Answers | None = None


def stages(settings: ClassifierSettings) -> int:
    """Return how many stages export_classifier has."""
    return STAGES + 2 * (settings.expect is not None) + is_possible(settings.reference)


def export_classifier(file: Path, settings: ClassifierSettings, target: Target, progress: Progress) -> Exported:
    """Export a checkpoint file, or a folder of Hugging Face or timm, to a new version in the model repository.

    Raises:
        BadInput: The checkpoint, the settings or the target; nothing was written.
        ParityFailed: The export differs from the checkpoint or the user's answers; nothing was written.
    """
    package.plan(target)
    progress(f"reading {file.name}")
    source = read_source(file, settings.weights)
    settings = with_recorded(settings, source.recorded)
    recognised = recognise_source(source, assume=settings.assume, stride_in_1x1=settings.stride_in_1x1)
    stated = {**settings.assume, "stride-in": "1x1"} if settings.stride_in_1x1 else settings.assume

    def rebuild(values: Mapping[str, str]) -> nn.Module:
        weights = values.get(WEIGHTS)
        others = {name: value for name, value in values.items() if name != WEIGHTS}
        read = source if weights is None else read_source(file, weights)
        return recognise_source(read, assume={**stated, **others}).network

    recognised = replace(recognised, rebuild=rebuild)
    return export_recognised(recognised, source.files, settings, target, progress)


def with_recorded(settings: ClassifierSettings, recorded: Recorded) -> ClassifierSettings:
    """Return the settings, completed by the values that are recorded beside the weights; the user's take precedence."""
    picked = settings.input
    if isinstance(picked, RecipeChoice):
        picked = replace(picked, told=recorded.pictures)
    activation = settings.activation or recorded.activation
    settings = replace(settings, input=picked, activation=activation)
    if settings.labels is not None or recorded.labels is None:
        return settings
    names = recorded.labels
    note = f"labels: {len(names.names)} names of {recorded.labels_from}"
    return replace(settings, labels=names.names, notes=(note, *names.shared, *settings.notes))


def export_recognised(
    recognised: RecognisedCheckpoint,
    files: Sequence[SourceFile],
    settings: ClassifierSettings,
    target: Target,
    progress: Progress,
    trace: Trace | None = None,
) -> Exported:
    """Export a network in memory, loaded from `files`; `trace` replaces trace_classifier. Else as export_classifier."""
    folder = package.plan(target)
    network, labels = _checked(recognised, settings)
    recipe, notes = settings.input, settings.notes + tuple(filter(None, [recognised.found])) + recognised.notes
    if isinstance(recipe, RecipeChoice):
        recipe, chosen, assumptions = recipe.for_layout(recognised.layout)
        notes += (chosen,)
        recognised = replace(recognised, assumptions=recognised.assumptions + assumptions)
    _check_channels(network, recipe)
    activation = f"ACTIVATION_{(settings.activation or 'softmax').upper()}"
    spec = pb.ClassifierSpec(labels=labels, feature_size=network.feature_size, activation=activation)
    manifest = new_manifest(recognised, files, recipe, spec)
    storage = settings.storage(recipe, labels) if settings.storage else None
    agreed = None
    if settings.expect is None:
        is_reading = recognised.reference == pb.REFERENCE_OUR_READING
        notes += statistics_hint(network, recipe, settings.samples, is_reading=is_reading)
    else:
        subject = classifier_subject(network, recipe, recognised.assumptions, recognised.rebuild)
        agreed = require_agreement(subject, settings.expect, progress)
        notes += agreed.notes

    progress("tracing")
    traced = (trace or trace_classifier)(network, recipe, spec.activation)
    graphs = {CLASSIFIER_FILE: with_heatmaps(traced, network, manifest)}
    if is_possible(settings.reference):
        graphs[CLASSIFIER_FILE] = with_drift_features(graphs[CLASSIFIER_FILE])
    notes += (described(manifest.classifier.heatmaps),)
    proof = prove_classifier(graphs, network, manifest, settings.samples, progress)
    manifest.parity.CopyFrom(proof.report)
    if agreed is not None:
        require_answers(graphs, manifest, agreed)
    comparison = proof.comparison
    quantised = None
    if storage is not None:
        quantised = quantise_classifier(graphs[CLASSIFIER_FILE], network, manifest, storage, progress)
    if isinstance(quantised, KeptInFloat):
        notes += (quantised.reason,)
    if isinstance(quantised, Quantised):
        graphs[CLASSIFIER_FILE] = quantised.model
        golden, comparison = quantised.golden, quantised.comparison
        notes += quantised.notes
        if agreed is not None:
            notes += (compare_reduced(graphs, manifest, agreed.answers),)
    else:
        if settings.allow_reduced:
            progress("measuring reduced precision")
            images = check_pictures(recipe, _MEASURED_PICTURES, _SEED, settings.samples)
            manifest.precisions.extend(reduced_bounds(CLASSIFIER_FILE, measure_classifier(network, images, recipe)))
        progress("golden examples")
        golden = classifier_golden(network, recipe, settings.samples)
    manifest.parity.checks.extend(check_sums(graphs[CLASSIFIER_FILE], manifest, golden.images))
    drift = drift_reference(graphs, manifest, settings.reference, progress)
    result = Result(graphs, manifest, golden, comparison, notes, drift)
    return finishing.finish(result, folder, progress, overwrite=target.overwrite)


def _checked(
    recognised: RecognisedCheckpoint, settings: ClassifierSettings
) -> tuple[ClassifierNetwork, tuple[str, ...]]:
    """Return the network and its labels."""
    network = recognised.network
    if not isinstance(network, ClassifierNetwork):
        raise BadInput(f"the checkpoint is a captioner (layout {recognised.layout}), not a classifier")
    if network.num_classes == 0:
        raise BadInput("the checkpoint has no classification layer (fc.weight): it is a trunk only")
    if settings.labels is None:
        raise BadInput(
            f"the checkpoint does not name its {network.num_classes} classes; give their names with --labels FILE, one "
            "a line in the order of the classes"
        )
    if network.num_classes == 1 and settings.activation in (None, "softmax"):
        raise BadInput(
            "softmax over one class is always 1: give --activation sigmoid for the class's probability, or "
            "--activation none for the number itself"
        )
    if len(settings.labels) != network.num_classes:
        raise BadInput(f"--labels gives {len(settings.labels)} labels for {network.num_classes} classes")
    return network, settings.labels


def _check_channels(network: ClassifierNetwork, recipe: pb.ImageInput) -> None:
    if network.in_channels not in (1, 3):
        raise BadInput(f"the network takes pictures of {network.in_channels} channels; RGB and grey are exported")
    if network.in_channels == 1 and (len(set(recipe.mean)) > 1 or len(set(recipe.std)) > 1):
        raise BadInput("the network takes grey pictures: give --mean and --std as one number each")
    if network.in_channels == 1 and recipe.channel_order == pb.ImageInput.CHANNEL_ORDER_BGR:
        raise BadInput("the network takes grey pictures, which have no channel order: leave --channel-order out")
