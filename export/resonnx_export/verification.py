"""Proves an existing export again: its files, its answers on everything that runs it here, and its checkpoint."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.graphs import CaptionerGraphs, ClassifierGraph
from resonnx_server.runtime.model_files.golden_examples import (
    Golden,
    check_recipe,
    judge_captions,
    judge_logits,
    parse_golden,
)
from resonnx_server.runtime.model_files.manifest import (
    CLASSIFIER_FILE,
    DECODER_FILE,
    ENCODER_FILE,
    GOLDEN,
    SUMS,
    VersionFiles,
    onnx_files,
    read_version,
)
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.session import Session

from resonnx_export.checkpoints.files import SourceFile, load_checkpoint
from resonnx_export.errors import BadInput, ParityFailed
from resonnx_export.graphs.row_graphs import check_row_graphs
from resonnx_export.labels.vocabulary import Vocabulary
from resonnx_export.layouts.captioners import recognise_captioner
from resonnx_export.layouts.captioners.picture_first import RESIDUAL
from resonnx_export.layouts.classifiers import recognise_classifier
from resonnx_export.networks import CaptionNetwork, ClassifierNetwork
from resonnx_export.pictures.recipe import check_pictures
from resonnx_export.precision.bounds import FP32_BOUND
from resonnx_export.proof import reference
from resonnx_export.proof.comparisons import prove_captioner, prove_classifier, prove_decoder, prove_encoder, tokens_of
from resonnx_export.proof.parity import BATCH_SIZES, open_session
from resonnx_export.proof.providers import judge_everywhere
from resonnx_export.proof.rescored import fresh_material, prove_rescored
from resonnx_export.publish.package import versions
from resonnx_export.wording import precision_name


def verify_version(folder: Path, checkpoint: Sequence[Path]) -> Iterator[str]:
    """Check a version's folder, and yield a line for each thing that holds.

    Args:
        folder: MODELS/NAME/VERSION.
        checkpoint: The files that it was exported from; compares with PyTorch once more.

    Raises:
        BadInput: The folder is damaged or not an export, or the checkpoint is not the one that it was made from.
        ParityFailed: Its answers are not those that it promises.
    """
    if (numbers := versions(folder)) and not (folder / SUMS).exists():
        raise BadInput(f"{folder} is a model's folder; give a version's, {folder / str(numbers[-1])}")
    try:
        files = read_version(folder)
        golden = parse_golden(files.files[GOLDEN], files.manifest)
        check_recipe(golden, files.manifest.input)
    except (ModelRefused, OSError) as error:
        raise BadInput(f"{folder}: {error}") from None
    except KeyError as missing:
        raise BadInput(f"{folder}: {missing} is missing") from None
    source = files.manifest.source
    yield f"{folder}: {source.architecture}, layout {source.layout}; checksums, manifest and pictures are in order"
    for file in onnx_files(files.manifest):
        yield from _judged_lines(files, file, golden)
    yield from check_row_graphs(files.files)
    if checkpoint:
        yield from _compare(files, golden, checkpoint)


def _judged_lines(files: VersionFiles, file: str, golden: Golden) -> Iterator[str]:
    """Hold one graph against the golden examples on each candidate that is installed here.

    A candidate that disagrees is told and never serves; the version fails if no candidate agrees.
    """
    try:
        all_judged = list(judge_everywhere(files.files, files.manifest, file, golden))
    except ModelRefused as error:
        raise ParityFailed(f"{file}: {error}") from None
    if all_judged and not any(judged.verdict.passed for judged in all_judged):
        raise ParityFailed(f"{file} on {all_judged[0].candidate}: {all_judged[0].verdict.detail}")
    for judged in all_judged:
        told = "" if judged.verdict.passed else "disagrees, so the server does not use it: "
        yield f"  {file} on {judged.candidate}: {told}{judged.verdict.detail}"


def _compare(files: VersionFiles, golden: Golden, checkpoint: Sequence[Path]) -> Iterator[str]:
    """Compare with PyTorch, as the export did."""
    manifest = files.manifest
    network, sources = _network(manifest, checkpoint)
    if sorted(source.sha256 for source in sources) != sorted(manifest.source.sha256):
        names = ", ".join(str(path) for path in checkpoint)
        raise BadInput(f"{names}: not what this version was exported from, by sha256")
    _compare_examples(golden, network, manifest)
    if manifest.stored:
        yield "  the golden examples are PyTorch's answers, in float32"
        yield from _compare_reduced(files, golden, network)
        return
    if isinstance(network, ClassifierNetwork):
        proof = prove_classifier(files.files[CLASSIFIER_FILE], network, manifest, (), _say_nothing)
    else:
        encoder, decoder = files.files[ENCODER_FILE], files.files[DECODER_FILE]
        proof = prove_captioner(encoder, decoder, network, manifest, (), _say_nothing)
    yield f"  equal to PyTorch's: {len(proof.report.checks)} checks passed, damaged copies refused"


def _compare_reduced(files: VersionFiles, golden: Golden, network: ClassifierNetwork | CaptionNetwork) -> Iterator[str]:
    """Compare what is stored in less than float32 within its bound, and the rest as exactly as ever.

    On the golden pictures: on those the export saw to it that the answers are the same. A trunk in int8 promises
    nothing on pictures that the model is not meant for, and which others it is, is not known here.
    """
    manifest, pictures = files.manifest, golden.images
    bounds = {bound.file: bound for bound in manifest.precisions if bound.file in manifest.stored}
    if isinstance(network, ClassifierNetwork):
        expected = reference.classify(network, pictures, manifest.input).logits
        graph = ClassifierGraph(open_session(files.files[CLASSIFIER_FILE]), manifest)
        verdict = judge_logits(expected, graph.run(pictures)["logits"], bounds[CLASSIFIER_FILE].max_deviation)
        same = "every clear top class the same"
    else:
        encoder, decoder = (open_session(files.files[file]) for file in (ENCODER_FILE, DECODER_FILE))
        yield from _compare_halves(files, network, encoder, pictures)
        decoded = decode_all(CaptionerGraphs(encoder, decoder, manifest), pictures, manifest.captioner)
        # As the server judges the pair.
        verdict = judge_captions(golden, decoded, max(bound.max_deviation for bound in bounds.values()))
        same = "the same captions"
    for file, bound in bounds.items():
        compared = f"{file} in {precision_name(bound.precision)} against PyTorch in float32"
        if not verdict.passed:
            raise ParityFailed(f"{compared}: {verdict.detail}")
        yield f"  {compared}, {len(pictures)} golden pictures: {same}, {verdict.detail}"


def _compare_halves(files: VersionFiles, network: CaptionNetwork, encoder: Session, pictures: Pixels) -> Iterator[str]:
    """Compare each of a captioner's files by itself with PyTorch, where it promises more than the golden examples."""
    manifest = files.manifest
    if ENCODER_FILE not in manifest.stored:
        images = [check_pictures(manifest.input, size, seed=size) for size in BATCH_SIZES]
        made = [reference.encode(network, each, manifest.input) for each in images]
        checks = prove_encoder(files.files[ENCODER_FILE], images, made)
        yield f"  {ENCODER_FILE} equal to PyTorch's: {len(checks)} checks passed, damaged copy refused"
    if DECODER_FILE not in manifest.stored:
        encoded = reference.encode(network, pictures, manifest.input)
        checks = prove_decoder(files.files[DECODER_FILE], network, [encoded], manifest.captioner)
        yield f"  {DECODER_FILE} equal to PyTorch's: {len(checks)} checks passed, damaged copy refused"
        return
    # Its words are PyTorch's on any picture.
    material = fresh_material(network, manifest)
    proof = prove_rescored(encoder, files.files[DECODER_FILE], network, manifest, material)
    expected = [caption.tokens for batch in material.captions for caption in batch]
    same = sum(np.array_equal(tokens_of(ours), theirs) for ours, theirs in zip(proof.captions, expected, strict=True))
    ties = ", the others differ at a near-tie" if same < len(expected) else ""
    yield (
        f"  {DECODER_FILE} with rescored words: {same} of {len(expected)} captions identical word by word{ties}; "
        f"{len(proof.checks)} checks passed, damaged copies refused"
    )


def _network(
    manifest: pb.Manifest, checkpoint: Sequence[Path]
) -> tuple[ClassifierNetwork | CaptionNetwork, Sequence[SourceFile]]:
    architecture = manifest.source.architecture
    if manifest.task == pb.TASK_CAPTIONER:
        vocabulary = Vocabulary(tuple(manifest.captioner.vocabulary))
        source = recognise_captioner(
            checkpoint,
            vocabulary,
            caffe_resnet=architecture.endswith("_caffe"),
            residual=manifest.source.layout.endswith(RESIDUAL),
        )
        return source.recognised.network, source.files
    if len(checkpoint) > 1:
        raise BadInput(f"a classifier is one file; {len(checkpoint)} were given")
    loaded = load_checkpoint(checkpoint[0])
    strided = architecture.endswith("_stride_in_1x1")
    return recognise_classifier(loaded.state_dict, stride_in_1x1=strided).network, [loaded.file]


def _compare_examples(golden: Golden, network: ClassifierNetwork | CaptionNetwork, manifest: pb.Manifest) -> None:
    """Check that the golden examples are PyTorch's answers. Raises ParityFailed if they are not."""
    if isinstance(network, ClassifierNetwork):
        expected = reference.classify(network, golden.images, manifest.input).logits
        same = golden.logits is not None and judge_logits(expected, golden.logits, FP32_BOUND).passed
    else:
        captions = reference.caption(
            network, reference.encode(network, golden.images, manifest.input), manifest.captioner
        )
        same = golden.tokens is not None and all(
            row[row >= 0].tolist() == caption.tokens.tolist()
            for row, caption in zip(golden.tokens, captions, strict=True)
        )
    if not same:
        raise ParityFailed(f"{GOLDEN} does not hold PyTorch's answers")


def _say_nothing(stage: str) -> None:
    return None
