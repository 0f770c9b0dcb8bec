"""Opens an exported graph on everything that can run it here, and holds each against the golden examples.

As the server does at load, with the same sessions and the same judgement.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.graphs import CaptionerGraphs, ClassifierGraph
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.model_files.golden_examples import Golden, Verdict, judge_captions, judge_logits
from resonnx_server.runtime.model_files.manifest import DECODER_FILE, ENCODER_FILE
from resonnx_server.runtime.session import CPU, Candidate, Session, candidates

Graphs = ClassifierGraph | CaptionerGraphs


@dataclass(frozen=True)
class VerifiedRun:
    """One provider and precision, and how it did.

    Attributes:
        candidate: Which.
        graphs: Opened on it; None if it does not load.
        verdict: Whether it may serve, and why not.
    """

    candidate: Candidate
    graphs: Graphs | None
    verdict: Verdict


def judge_everywhere(
    files: Mapping[str, bytes], manifest: pb.Manifest, file: str, golden: Golden
) -> Iterator[VerifiedRun]:
    """Judge one ONNX file of a model on each candidate that is installed here.

    Args:
        files: The model's ONNX files by name; a captioner's other file runs as plainly as it can.
        manifest: Says what each file may be computed in.
        file: Which of them.
        golden: What the answers must be.

    Raises:
        ModelRefused: Nothing here computes in what the manifest allows, or the examples are another task's.
    """
    bounds = {bound.precision: bound.max_deviation for bound in manifest.precisions if bound.file == file}
    for candidate in candidates("auto", list(bounds), stored_precision(manifest, file)):
        try:
            graphs = _open(files, manifest, file, candidate)
        except ModelRefused as error:
            yield VerifiedRun(candidate, None, Verdict(False, float("inf"), str(error)))
        else:
            yield VerifiedRun(candidate, graphs, _judge(graphs, manifest, golden, bounds[candidate.precision]))


def stored_precision(manifest: pb.Manifest, file: str) -> pb.Precision:
    """Return what a file's weights are stored in."""
    return manifest.stored.get(file, pb.PRECISION_FP32)


def _open(files: Mapping[str, bytes], manifest: pb.Manifest, file: str, candidate: Candidate) -> Graphs:
    def opened(name: str) -> Session:
        other = Candidate(CPU, stored_precision(manifest, name))
        return Session(files[name], candidate if name == file else other, usable_cores())

    if manifest.task == pb.TASK_CAPTIONER:
        return CaptionerGraphs(opened(ENCODER_FILE), opened(DECODER_FILE), manifest)
    return ClassifierGraph(opened(file), manifest)


def _judge(graphs: Graphs, manifest: pb.Manifest, golden: Golden, bound: float) -> Verdict:
    if isinstance(graphs, CaptionerGraphs):
        # The other may be stored in int8, and then has most of the deviation.
        stored = (each for each in manifest.precisions if each.precision == stored_precision(manifest, each.file))
        bound = max(bound, *(each.max_deviation for each in stored))
        return judge_captions(golden, decode_all(graphs, golden.images, manifest.captioner), bound)
    if golden.logits is None:
        raise ModelRefused("golden.npz holds no logits")
    return judge_logits(golden.logits, graphs.run(golden.images)["logits"], bound)
