"""Exports a captioner of any layout, as classifier.py does a classifier: two graphs, captions proved word by word."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from PIL import Image
from resonnx_server.runtime.model_files.manifest import DECODER_FILE, ENCODER_FILE

from resonnx_export.errors import BadInput
from resonnx_export.graphs.row_graphs import row_graphs
from resonnx_export.graphs.trace import trace_decoder, trace_encoder
from resonnx_export.labels.vocabulary import Vocabulary
from resonnx_export.layouts.captioners import CaptionSource, recognise_captioner
from resonnx_export.networks import CaptionNetwork
from resonnx_export.pictures.recipe import InputChanges, check_pictures
from resonnx_export.pictures.recipes import describe
from resonnx_export.precision import decoder as stored_decoder
from resonnx_export.precision.bounds import measure_captioner, reduced_bounds
from resonnx_export.precision.classifier import StorageFor, store_encoder
from resonnx_export.precision.decoder import check_vocabulary, store_decoder
from resonnx_export.precision.rescored import rescore
from resonnx_export.progress import Progress
from resonnx_export.proof.comparisons import prove_captioner
from resonnx_export.proof.golden_examples import captioner_golden
from resonnx_export.publish import finishing, package
from resonnx_export.publish.finishing import Result, finish
from resonnx_export.publish.manifest import new_manifest
from resonnx_export.publish.package import Exported, Target

# How often export_captioner tells, with nothing asked for; see `stages`.
STAGES: Final = 8 + finishing.STAGES
_MEASURED_PICTURES: Final = 8
_SEED: Final = 2000


@dataclass(frozen=True)
class CaptionerSettings:
    """What a checkpoint does not say, or what is wanted otherwise than its layout has it.

    Attributes:
        vocabulary: The word of each token id.
        input: Changes to the layout's picture recipe.
        max_tokens: A caption's greatest length, the end token included; None for the layout's.
        caffe_resnet: As recognise_captioner's.
        residual: Likewise.
        allow_reduced: Whether providers may compute in bf16, fp16 and TF32.
        storage: What to store the encoder's trunk in, once the input is known; None for float32.
        rescore: Whether to store the decoder's output layer in int8, its best words scored again in float32.
        samples: Pictures that the model is meant for; the check pictures are synthetic without.
    """

    vocabulary: Vocabulary
    input: InputChanges = field(default_factory=InputChanges)
    max_tokens: int | None = None
    caffe_resnet: bool | None = None
    residual: bool = False
    allow_reduced: bool = False
    storage: StorageFor | None = None
    samples: Sequence[Image.Image] = ()
    rescore: bool = False


def stages(settings: CaptionerSettings) -> int:
    """Return how often export_captioner tells."""
    return STAGES + (stored_decoder.STAGES if settings.rescore else 0)


def export_captioner(files: Sequence[Path], settings: CaptionerSettings, target: Target, tell: Progress) -> Exported:
    """Export a captioner's files to a new version in the model repository. Raises as export_classifier does."""
    folder = package.plan(target)
    tell(f"reading {', '.join(file.name for file in files)}")
    source = recognise_captioner(
        files, settings.vocabulary, caffe_resnet=settings.caffe_resnet, residual=settings.residual
    )
    network = _checked(source)
    recipe = settings.input.apply(source.input)
    spec = source.spec
    if settings.rescore:
        check_vocabulary(spec)
    spec.attention_rows, spec.attention_columns = network.attention_grid(recipe.height, recipe.width)
    if settings.max_tokens is not None:
        spec.max_tokens = settings.max_tokens
    manifest = new_manifest(source.recognised, source.files, recipe, spec)
    storage = settings.storage(recipe) if settings.storage else None

    tell("tracing")
    encoder = trace_encoder(network, recipe)
    decoder = trace_decoder(network, recipe)
    rescored = rescore(decoder) if settings.rescore else None
    proof = prove_captioner(encoder, decoder, network, manifest, settings.samples, tell)
    manifest.parity.CopyFrom(proof.report)
    answers, bound = proof.answers, proof.bound
    if settings.allow_reduced:
        tell("measuring reduced precision")
        images = check_pictures(recipe, _MEASURED_PICTURES, _SEED, settings.samples)
        for name, deviations in measure_captioner(network, images, recipe, spec).items():
            manifest.precisions.extend(reduced_bounds(name, deviations))
    how = "" if recipe == source.input else ", changed"
    notes: tuple[str, ...] = (f"pictures: {describe(recipe)} (as layout {source.recognised.layout} has them{how})",)
    notes += source.recognised.notes
    served = {ENCODER_FILE: encoder, DECODER_FILE: rescored or decoder}
    if storage is not None:
        # Its golden examples are what both files that are served agree with.
        stored = store_encoder(encoder, served[DECODER_FILE], network, manifest, storage, tell)
        served[ENCODER_FILE] = stored.model
        golden, answers, bound = stored.golden, stored.answers, stored.bound
        notes += stored.notes
    else:
        tell("golden examples")
        golden = captioner_golden(network, recipe, spec, settings.samples)
    if rescored is not None:
        must_agree = golden if storage is None else None
        both = store_decoder((encoder, decoder), rescored, network, manifest, settings.samples, must_agree, tell)
        if storage is None:
            answers, bound = both.answers, both.bound
        notes += both.notes
    served |= row_graphs(served[DECODER_FILE])
    result = Result(served, manifest, golden, answers, bound, notes)
    return finish(result, folder, tell, overwrite=target.overwrite)


def _checked(source: CaptionSource) -> CaptionNetwork:
    network = source.recognised.network
    assert isinstance(network, CaptionNetwork)
    if network.trunk.config.in_channels != 3:
        raise BadInput(
            f"the network takes pictures of {network.trunk.config.in_channels} channels; only RGB is exported"
        )
    return network
