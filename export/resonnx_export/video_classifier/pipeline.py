"""Exports a video classifier, in the stages of classifier.py, as graphs of frames, of clips, and of single frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import ENCODER_FILE
from resonnx_server.runtime.video.spec import SEQUENCE_FILE, STEP_FILE

from resonnx_export.answers.agreement import require_agreement
from resonnx_export.answers.recorded import Answers
from resonnx_export.answers.subject import Subject, video_subject
from resonnx_export.errors import BadInput
from resonnx_export.graphs.sequence import sequence_graph, step_graph
from resonnx_export.graphs.trace import trace_clips, trace_frame, trace_frame_encoder
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.layouts.video import VideoSource, recognise_video
from resonnx_export.networks.video import RecurrentVideo, StepwiseVideo, VideoNetwork
from resonnx_export.options import Activation, Target
from resonnx_export.pictures.clip_folders import read_clips
from resonnx_export.pictures.recipe import InputChanges, describe
from resonnx_export.pictures.recipes import assumed
from resonnx_export.precision.clips import quantise_frames
from resonnx_export.precision.guard import Limits
from resonnx_export.precision.trunk import KeptInFloat, Quantised
from resonnx_export.progress import Progress
from resonnx_export.proof.clips import prove_video, video_golden
from resonnx_export.publish import finishing, package
from resonnx_export.publish.drift_reference import drift_reference
from resonnx_export.publish.manifest import new_manifest
from resonnx_export.publish.package import Exported
from resonnx_export.report.page import Result
from resonnx_export.tasks.answers import compare_reduced, require_answers

# How many stages export_video has without answers to compare with.
STAGES: Final = 8 + finishing.STAGES
MAX_FRAMES: Final = 256
_Sampling = pb.VideoClassifierSpec.Sampling


@dataclass(frozen=True)
class VideoSettings:
    """Settings that a checkpoint does not record.

    Attributes:
        labels: One for each class, in order.
        input: Changes to the layout's picture recipe.
        sampling: Which frames of a video are read.
        max_frames: The most frames of a clip after sampling.
        activation: Turns logits into probabilities.
        samples: Typical frames; without them, all check pictures are synthetic.
        assume: Values of properties of the network, by their names.
        expect: Answers of the user's own model, which the export must give.
        notes: Lines for the user about the settings.
        calibration: A folder of typical clips for the encoder in int8; None keeps float32.
        limits: Of the loss in int8.
        only_if_faster: Keep float32 where int8 is not measured to be faster here, or exceeds its limits.
    """

    labels: tuple[str, ...]
    input: InputChanges = field(default_factory=InputChanges)
    sampling: _Sampling = field(default_factory=lambda: _Sampling(rule=_Sampling.RULE_ALL))
    max_frames: int = MAX_FRAMES
    activation: Activation = "softmax"
    samples: Sequence[Image.Image] = ()
    assume: Mapping[str, str] = field(default_factory=dict)
    expect: Answers | None = None
    notes: tuple[str, ...] = ()
    calibration: Path | None = None
    limits: Limits = field(default_factory=Limits)
    only_if_faster: bool = False


def stages(settings: VideoSettings) -> int:
    """Return how many stages export_video has."""
    return STAGES + 2 * (settings.expect is not None)


def export_video(files: Sequence[Path], settings: VideoSettings, target: Target, progress: Progress) -> Exported:
    """Export a video classifier's files to a new version in the model repository. Raises as export_classifier."""
    package.plan(target)
    progress(f"reading {', '.join(file.name for file in files)}")

    def recognised(values: Mapping[str, str]) -> VideoSource:
        return recognise_video(files, assume={**settings.assume, **values}, decided=settings.expect is not None)

    source = _with_recipe(replace(recognised({}), rebuild=recognised), settings)
    return export_recognised(source, settings, target, progress)


def export_recognised(source: VideoSource, settings: VideoSettings, target: Target, progress: Progress) -> Exported:
    """Export a video classifier to a new version in the model repository.

    Args:
        source: The network, and the recipe with the user's changes.
        settings: Those of `input` and of the checkpoint's reading are not used.
        target: Where to write.
        progress: Called as each stage begins.

    Raises:
        BadInput, ParityFailed: As export_classifier; nothing was written.
    """
    folder = package.plan(target)
    recognised, recipe = source.recognised, source.input
    network = _checked(recognised, settings)
    graphs, states = _graphs_over_time(network)
    spec = pb.VideoClassifierSpec(
        labels=settings.labels,
        activation=f"ACTIVATION_{settings.activation.upper()}",
        feature_size=network.feature_size,
        sampling=settings.sampling,
        max_frames=settings.max_frames,
        states=states,
    )
    manifest = new_manifest(recognised, source.files, recipe, spec)
    clips = None
    if settings.calibration is not None:
        if recipe is None:
            raise BadInput("the network has no convolutions to store in int8: leave --precision and --calibration out")
        clips = read_clips(settings.calibration, recipe, settings.labels)
    notes, agreed = (*settings.notes, *recognised.notes), None
    if settings.expect is not None:
        agreed = require_agreement(_subject(source, network), settings.expect, progress)
        notes += agreed.notes
    progress("tracing")
    if recipe is not None:
        graphs = {ENCODER_FILE: trace_frame_encoder(network, recipe), **graphs}
    proof = prove_video(graphs, network, manifest, settings.samples, progress)
    manifest.parity.CopyFrom(proof.report)
    if agreed is not None:
        require_answers(graphs, manifest, agreed)
    comparison, quantised = proof.comparison, None
    if clips is not None:
        only_if_faster = settings.only_if_faster
        quantised = quantise_frames(
            graphs, network, manifest, clips, settings.limits, progress, only_if_faster=only_if_faster
        )
    if isinstance(quantised, KeptInFloat):
        notes += (quantised.reason,)
    if isinstance(quantised, Quantised):
        graphs[ENCODER_FILE] = quantised.model
        golden, comparison = quantised.golden, quantised.comparison
        notes += quantised.notes
        if agreed is not None:
            notes += (compare_reduced(graphs, manifest, agreed.answers),)
    else:
        progress("golden examples")
        golden = video_golden(network, manifest, settings.samples)
    drift = drift_reference(graphs, manifest, None, progress)
    result = Result(graphs, manifest, golden, comparison, notes, drift)
    return finishing.finish(result, folder, progress, overwrite=target.overwrite)


def _with_recipe(source: VideoSource, settings: VideoSettings) -> VideoSource:
    """Return the source with the user's changes of its recipe, and the assumptions about it."""
    if source.input is None:
        if stated := settings.input.stated():
            raise BadInput(f"the network reads features, not pictures: leave out the options of {', '.join(stated)}")
        return source
    recipe, layout = settings.input.apply(source.input), source.recognised.layout
    note = f"frames: {describe(recipe)} (as layout {layout} has them{settings.input.applied_to(source.input)})"
    told = assumed(source.input, settings.input, f"layout {layout}")
    recognised = replace(
        source.recognised,
        assumptions=source.recognised.assumptions + told,
        notes=(note, *source.recognised.notes),
    )
    return replace(source, recognised=recognised, input=recipe)


def _checked(recognised: RecognisedCheckpoint, settings: VideoSettings) -> VideoNetwork:
    network = recognised.network
    assert isinstance(network, VideoNetwork)
    if len(settings.labels) != network.num_classes:
        raise BadInput(f"--labels gives {len(settings.labels)} labels for {network.num_classes} classes")
    if network.num_classes == 1 and settings.activation == "softmax":
        raise BadInput("softmax over one class is always 1: give --activation sigmoid, or --activation none")
    if network.in_channels not in (0, 1, 3):
        raise BadInput(f"the network takes frames of {network.in_channels} channels; RGB and grey are exported")
    return network


def _graphs_over_time(network: VideoNetwork) -> tuple[dict[str, bytes], list[pb.VideoClassifierSpec.State]]:
    """Return sequence.onnx, and step.onnx with its states if the network reads forwards only."""
    if isinstance(network, StepwiseVideo):
        files = {SEQUENCE_FILE: trace_clips(network)}
        if network.states:
            files[STEP_FILE] = trace_frame(network)
        state = pb.VideoClassifierSpec.State
        return files, [state(name=f"state_{i}", shape=[size]) for i, size in enumerate(network.states)]
    assert isinstance(network, RecurrentVideo)
    files = {SEQUENCE_FILE: sequence_graph(network)}
    if network.config.sequence.bidirectional:
        return files, []
    files[STEP_FILE], states = step_graph(network)
    return files, states


def _subject(source: VideoSource, network: VideoNetwork) -> Subject:
    """Return the network for the comparison with the user's answers."""
    rebuild = source.rebuild

    def other(values: Mapping[str, str]) -> VideoNetwork:
        assert rebuild is not None
        built = rebuild(values).recognised.network
        assert isinstance(built, VideoNetwork)
        return built

    assumptions, recipe = source.recognised.assumptions, source.input or pb.ImageInput()
    return video_subject(network, recipe, assumptions, None if rebuild is None else other)
