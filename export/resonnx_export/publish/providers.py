"""Opens an exported graph on each installed provider, and compares it with the golden examples as the server does."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.model_files.golden_examples import Golden, Verdict
from resonnx_server.runtime.model_files.manifest import onnx_files
from resonnx_server.runtime.session import CPU, Candidate, Session, candidates

from resonnx_export.tasks import task_of


@dataclass(frozen=True)
class VerifiedRun:
    """The verdict on one provider and precision, and the graphs opened on it; None if it does not load them."""

    provider: Candidate
    graphs: Any
    verdict: Verdict


def verified_runs(
    files: Mapping[str, bytes], manifest: pb.Manifest, file: str, golden: Golden
) -> Iterator[VerifiedRun]:
    """Run the golden examples through one ONNX file of a model on each installed provider.

    `files` are the model's ONNX files by name; a captioner's other file runs on the CPU.

    Raises:
        ModelRefused: No installed provider has an allowed precision, or the examples are another task's.
    """
    task = task_of(manifest)
    bounds = {bound.precision: bound.max_deviation for bound in manifest.precisions if bound.file == file}
    for provider in candidates("auto", list(bounds), _stored_precision(manifest, file)):

        def session(name: str, provider: Candidate = provider) -> Session:
            chosen = provider if name == file else Candidate(CPU, _stored_precision(manifest, name))
            return Session(files[name], chosen, usable_cores())

        try:
            graphs = task.open(session, manifest)
        except ModelRefused as error:
            yield VerifiedRun(provider, None, Verdict(False, float("inf"), str(error)))
            continue
        bound = bounds[provider.precision]
        if len(onnx_files(manifest)) > 1:
            # The other file may be quantised and have most of the deviation.
            stored = (each for each in manifest.precisions if each.precision == _stored_precision(manifest, each.file))
            bound = max(bound, *(each.max_deviation for each in stored))
        yield VerifiedRun(provider, graphs, task.judge(graphs, manifest, golden, bound))


def _stored_precision(manifest: pb.Manifest, file: str) -> pb.Precision:
    return manifest.stored.get(file, pb.PRECISION_FP32)
