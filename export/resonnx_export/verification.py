"""Proves an existing export again: its files, its answers on everything that runs it here, and its checkpoint."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.golden import Golden, Verdict, check_recipe, judge_captions, judge_logits, parse_golden
from resonnx_server.runtime.graphs import CaptionerGraphs, ClassifierGraph
from resonnx_server.runtime.greedy import decode_all
from resonnx_server.runtime.host import usable_cores
from resonnx_server.runtime.manifest import (
    CLASSIFIER_FILE,
    DECODER_FILE,
    ENCODER_FILE,
    GOLDEN,
    VersionFiles,
    onnx_files,
    read_version,
)
from resonnx_server.runtime.session import CPU, Candidate, Session, candidates

from resonnx_export import reference
from resonnx_export.caption_layouts import recognise_captioner
from resonnx_export.checkpoint import load_checkpoint
from resonnx_export.classifier_layouts import recognise_classifier
from resonnx_export.errors import BadInput, ParityFailed
from resonnx_export.networks import CaptionNetwork, ClassifierNetwork
from resonnx_export.precision import FP32_BOUND
from resonnx_export.proofs import prove_captioner, prove_classifier
from resonnx_export.vocabulary import Vocabulary


def verify_version(folder: Path, checkpoint: Sequence[Path]) -> Iterator[str]:
    """Check a version's folder, and yield a line for each thing that holds.

    Args:
        folder: MODELS/NAME/VERSION.
        checkpoint: The files that it was exported from; compares with PyTorch once more.

    Raises:
        BadInput: The folder is damaged or no export, or the checkpoint is not the one that it was made from.
        ParityFailed: Its answers are not those that it promises.
    """
    try:
        files = read_version(folder)
        golden = parse_golden(files.files[GOLDEN])
        check_recipe(golden, files.manifest.input)
    except (ModelRefused, OSError) as error:
        raise BadInput(f"{folder}: {error}") from None
    except KeyError as missing:
        raise BadInput(f"{folder}: {missing} is missing") from None
    source = files.manifest.source
    yield f"{folder}: {source.architecture}, layout {source.layout}; checksums, manifest and pictures are in order"
    for file in onnx_files(files.manifest):
        yield from _judge_everywhere(files, file, golden)
    if checkpoint:
        yield _compare(files, golden, checkpoint)


def _judge_everywhere(files: VersionFiles, file: str, golden: Golden) -> Iterator[str]:
    """Hold one graph against the golden examples on each candidate that is installed here."""
    bounds = {bound.precision: bound.max_deviation for bound in files.manifest.precisions if bound.file == file}
    try:
        found = candidates("auto", list(bounds), _stored(files.manifest, file))
        for candidate in found:
            verdict = _judge(files, file, golden, candidate, bounds[candidate.precision])
            if not verdict.passed:
                raise ParityFailed(f"{file} on {candidate}: {verdict.detail}")
            yield f"  {file} on {candidate}: {verdict.detail}"
    except ModelRefused as error:
        raise ParityFailed(f"{file}: {error}") from None


def _judge(files: VersionFiles, file: str, golden: Golden, candidate: Candidate, bound: float) -> Verdict:
    def opened(name: str) -> Session:
        # A captioner's other graph runs as plainly as it can.
        other = Candidate(CPU, _stored(files.manifest, name))
        return Session(files.files[name], candidate if name == file else other, usable_cores())

    if files.manifest.task == pb.TASK_CAPTIONER:
        graphs = CaptionerGraphs(opened(ENCODER_FILE), opened(DECODER_FILE), files.manifest)
        # The other may be stored in int8, and then has most of the deviation.
        stored = (each for each in files.manifest.precisions if each.precision == _stored(files.manifest, each.file))
        bound = max(bound, *(each.max_deviation for each in stored))
        return judge_captions(golden, decode_all(graphs, golden.images, files.manifest.captioner), bound)
    if golden.logits is None:
        raise ModelRefused("golden.npz holds no logits")
    logits = ClassifierGraph(opened(file), files.manifest).run(golden.images)["logits"]
    return judge_logits(golden.logits, logits, bound)


def _compare(files: VersionFiles, golden: Golden, checkpoint: Sequence[Path]) -> str:
    """Compare with PyTorch, as the export did."""
    manifest = files.manifest
    network, sha256 = _network(manifest, checkpoint)
    if sorted(sha256) != sorted(manifest.source.sha256):
        names = ", ".join(str(path) for path in checkpoint)
        raise BadInput(f"{names}: not what this version was exported from, by sha256")
    _compare_examples(golden, network, manifest)
    if any(_stored(manifest, file) != pb.PRECISION_FP32 for file in onnx_files(manifest)):
        # As near as the manifest says, on pictures that it was meant for: which others are, is not known here.
        return "  the golden examples are PyTorch's answers, in float32"
    if isinstance(network, ClassifierNetwork):
        report = prove_classifier(files.files[CLASSIFIER_FILE], network, manifest, (), _say_nothing)
    else:
        encoder, decoder = files.files[ENCODER_FILE], files.files[DECODER_FILE]
        report = prove_captioner(encoder, decoder, network, manifest, (), _say_nothing)
    return f"  equal to PyTorch's: {len(report.checks)} checks passed, damaged copies refused"


def _network(manifest: pb.Manifest, checkpoint: Sequence[Path]) -> tuple[ClassifierNetwork | CaptionNetwork, list[str]]:
    architecture = manifest.source.architecture
    if manifest.task == pb.TASK_CAPTIONER:
        vocabulary = Vocabulary(tuple(manifest.captioner.vocabulary))
        source = recognise_captioner(checkpoint, vocabulary, caffe_resnet=architecture.endswith("_caffe"))
        return source.recognised.network, list(source.sha256)
    if len(checkpoint) > 1:
        raise BadInput(f"a classifier is one file; {len(checkpoint)} were given")
    loaded = load_checkpoint(checkpoint[0])
    strided = architecture.endswith("_stride_in_1x1")
    return recognise_classifier(loaded.state_dict, stride_in_1x1=strided).network, [loaded.sha256]


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


def _stored(manifest: pb.Manifest, file: str) -> pb.Precision:
    return manifest.stored.get(file, pb.PRECISION_FP32)


def _say_nothing(stage: str) -> None:
    return None
