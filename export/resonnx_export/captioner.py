"""Exports a captioner, in the stages of classifier.py, as two graphs: encoder and decoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import DECODER_FILE, ENCODER_FILE
from torch import nn

from resonnx_export.answers.agreement import require_agreement
from resonnx_export.answers.recorded import Answers
from resonnx_export.answers.statistics import statistics_hint
from resonnx_export.answers.subject import Subject, captioner_subject
from resonnx_export.errors import BadInput
from resonnx_export.graphs.drift_features import with_drift_features
from resonnx_export.graphs.row_graphs import row_graphs
from resonnx_export.graphs.trace import trace_decoder, trace_encoder
from resonnx_export.layouts.captioners import CaptionSource, recognise_captioner
from resonnx_export.networks.protocol import CaptionNetwork, ResNetCaptioner
from resonnx_export.options import Target
from resonnx_export.pictures.calibration import ReferencePictures
from resonnx_export.pictures.recipe import InputChanges, describe
from resonnx_export.pictures.recipes import assumed
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.precision import decoder as quantised_decoder
from resonnx_export.precision.bounds import measure_captioner, reduced_bounds
from resonnx_export.precision.decoder import check_vocabulary, quantise_decoder
from resonnx_export.precision.rescored import rescore
from resonnx_export.precision.trunk import KeptInFloat, Quantised, StorageFor, quantise_encoder
from resonnx_export.progress import Progress
from resonnx_export.proof.comparisons import prove_captioner
from resonnx_export.proof.drift import Rounding
from resonnx_export.proof.golden_examples import captioner_golden, cut_note
from resonnx_export.publish import finishing, package
from resonnx_export.publish.drift_reference import drift_reference, is_possible
from resonnx_export.publish.manifest import new_manifest
from resonnx_export.publish.package import Exported
from resonnx_export.report.page import Result
from resonnx_export.sources.pickled_captioner import follow_pickled
from resonnx_export.special_tokens import SpecialTokens
from resonnx_export.tasks.answers import compare_reduced, require_answers
from resonnx_export.vocabulary import Vocabulary

# How many stages export_captioner has with the decoder in fp32.
STAGES: Final = 8 + finishing.STAGES
_MEASURED_PICTURES: Final = 8
_SEED: Final = 2000


@dataclass(frozen=True)
class CaptionerSettings:
    """Settings that a checkpoint does not record, or that override its layout's.

    Attributes:
        vocabulary: The word of each token id; None for the checkpoint's.
        input: Changes to the layout's picture recipe.
        max_tokens: A caption's greatest length with the end token; None for the layout's.
        caffe_resnet, residual: As recognise_captioner's.
        allow_reduced, storage, samples, reference: As ClassifierSettings'; the trunk is the encoder's.
        rescore: Whether to convert the decoder's output layer to int8 with fp32 rescoring.
        tokens: The words that start, end and pad captions.
        assume: Values of properties that the checkpoint does not record, by their names.
        expect: Answers of the user's own model, which the export must give.
    """

    vocabulary: Vocabulary | None = None
    input: InputChanges = field(default_factory=InputChanges)
    max_tokens: int | None = None
    caffe_resnet: bool | None = None
    residual: bool = False
    allow_reduced: bool = False
    storage: StorageFor | None = None
    samples: Sequence[Image.Image] = ()
    reference: ReferencePictures | None = None
    rescore: bool = False
    tokens: SpecialTokens = field(default_factory=SpecialTokens)
    assume: Mapping[str, str] = field(default_factory=dict)
    expect: Answers | None = None


def stages(settings: CaptionerSettings) -> int:
    """Return how many stages export_captioner has."""
    optional = (quantised_decoder.STAGES if settings.rescore else 0) + 2 * (settings.expect is not None)
    return STAGES + optional + is_possible(settings.reference)


def export_captioner(
    files: Sequence[Path], settings: CaptionerSettings, target: Target, progress: Progress
) -> Exported:
    """Export a captioner's files to a new version in the model repository. Raises as export_classifier."""
    package.plan(target)
    progress(f"reading {', '.join(file.name for file in files)}")
    source, assume = follow_pickled(
        settings.assume, lambda values: _recognised(files, replace(settings, assume=values))
    )
    _check_channels(source.recognised.network)
    recipe, layout = settings.input.apply(source.input), source.recognised.layout
    changed = settings.input.applied_to(source.input)
    recognised = replace(
        source.recognised,
        assumptions=source.recognised.assumptions + assumed(source.input, settings.input, f"layout {layout}"),
        notes=(f"pictures: {describe(recipe)} (as layout {layout} has them{changed})", *source.recognised.notes),
    )

    def rebuild(values: Mapping[str, str]) -> CaptionSource:
        return _recognised(files, replace(settings, assume={**assume, **values}))

    source = replace(source, recognised=recognised, input=recipe, rebuild=rebuild)
    return export_recognised(source, settings, target, progress)


def _recognised(files: Sequence[Path], settings: CaptionerSettings) -> CaptionSource:
    source = recognise_captioner(
        files,
        settings.vocabulary,
        caffe_resnet=settings.caffe_resnet,
        residual=settings.residual,
        tokens=settings.tokens,
        assume=settings.assume,
    )
    if settings.max_tokens is not None:
        source.spec.max_tokens = settings.max_tokens
    return source


def export_recognised(
    source: CaptionSource, settings: CaptionerSettings, target: Target, progress: Progress
) -> Exported:
    """Export a captioner to a new version in the model repository.

    Args:
        source: The network, its decoding rule, and the recipe with the user's changes.
        settings: Those of `input` and of the checkpoint's reading are not used.
        target: Where to write.
        progress: Called as each stage begins.

    Raises:
        BadInput, ParityFailed: As export_captioner; nothing was written.
    """
    folder = package.plan(target)
    network, recipe, spec = source.recognised.network, source.input, source.spec
    assert isinstance(network, CaptionNetwork)
    if settings.rescore:
        check_vocabulary(spec)
    spec.attention_rows, spec.attention_columns = network.attention_grid(recipe.height, recipe.width)
    if settings.max_tokens is not None:
        spec.max_tokens = settings.max_tokens
    manifest = new_manifest(source.recognised, source.files, recipe, spec)
    storage = settings.storage(recipe, ()) if settings.storage else None
    is_reading = source.recognised.reference == pb.REFERENCE_OUR_READING
    hint = statistics_hint(network, recipe, settings.samples, is_reading=is_reading)
    notes = source.recognised.notes + hint
    agreed = None
    if settings.expect is not None:
        agreed = require_agreement(_subject(source, network), settings.expect, progress)
        notes += agreed.notes

    progress("tracing")
    encoder, decoder = trace_encoder(network, recipe), trace_decoder(network, recipe)
    if is_possible(settings.reference):
        encoder = with_drift_features(encoder)
    rescored = rescore(decoder) if settings.rescore else None
    graphs = {ENCODER_FILE: encoder, DECODER_FILE: decoder}
    proof = prove_captioner(graphs, network, manifest, settings.samples, progress)
    manifest.parity.CopyFrom(proof.report)
    if agreed is not None:
        require_answers(graphs, manifest, agreed)
    comparison = proof.comparison
    graphs[DECODER_FILE] = rescored or decoder
    quantised = None
    if storage is not None:
        quantised = quantise_encoder(encoder, graphs[DECODER_FILE], network, manifest, storage, progress)
    if isinstance(quantised, KeptInFloat):
        notes += (quantised.reason,)
    is_quantised = isinstance(quantised, Quantised)
    if isinstance(quantised, Quantised):
        # Its golden examples agree with the served encoder and decoder.
        graphs[ENCODER_FILE] = quantised.model
        golden, comparison = quantised.golden, quantised.comparison
        notes += quantised.notes
    else:
        progress("golden examples")
        golden = captioner_golden(network, recipe, spec, settings.samples, Rounding.of(proof.report.checks))
    if settings.allow_reduced:
        progress("measuring reduced precision")
        images = check_pictures(recipe, _MEASURED_PICTURES, _SEED, settings.samples)
        for name, deviations in measure_captioner(network, images, golden, recipe, spec).items():
            if name not in manifest.stored:
                manifest.precisions.extend(reduced_bounds(name, deviations))
    if rescored is not None:
        examples = None if is_quantised else golden
        compared, lines = quantise_decoder(
            (encoder, decoder), rescored, network, manifest, settings.samples, examples, progress
        )
        comparison = comparison if is_quantised else compared
        notes += lines
    notes += cut_note(golden, spec)
    if agreed is not None and manifest.stored:
        notes += (compare_reduced(graphs, manifest, agreed.answers),)
    drift = drift_reference(graphs, manifest, settings.reference, progress)
    graphs |= row_graphs(graphs[DECODER_FILE])
    result = Result(graphs, manifest, golden, comparison, notes, drift)
    return finishing.finish(result, folder, progress, overwrite=target.overwrite)


def _subject(source: CaptionSource, network: CaptionNetwork) -> Subject:
    """Return the network for the comparison with the user's answers."""
    rebuild = source.rebuild

    def other(values: Mapping[str, str]) -> tuple[CaptionNetwork, pb.CaptionerSpec]:
        assert rebuild is not None
        built = rebuild(values)
        assert isinstance(built.recognised.network, CaptionNetwork)
        return built.recognised.network, built.spec

    assumptions = source.recognised.assumptions
    return captioner_subject(network, source.input, source.spec, assumptions, None if rebuild is None else other)


def _check_channels(network: nn.Module) -> None:
    assert isinstance(network, ResNetCaptioner)
    if network.trunk.in_channels != 3:
        raise BadInput(f"the network takes pictures of {network.trunk.in_channels} channels; only RGB is exported")
