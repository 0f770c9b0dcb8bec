"""Compares a version's graphs with the user's answers, and puts the result into its manifest."""

from collections.abc import Mapping

from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused

from resonnx_export.answers.agreement import Agreed
from resonnx_export.answers.judging import Judged
from resonnx_export.answers.pictures import pixels_of
from resonnx_export.answers.recorded import Answers
from resonnx_export.answers.subject import in_batches
from resonnx_export.errors import ParityFailed
from resonnx_export.proof.parity import open_session
from resonnx_export.tasks import task_of


def judge_graphs(files: Mapping[str, bytes], manifest: pb.Manifest, answers: Answers) -> Judged:
    """Compare graphs with the user's answers; those in reduced precision within their own bound.

    Raises:
        BadInput: The answers are not for such a model or its input.
        ParityFailed: The graphs cannot be run.
    """
    task = task_of(manifest)
    pixels = pixels_of(answers, manifest.input)
    try:
        graphs = task.open(lambda file: open_session(files[file]), manifest)
    except ModelRefused as error:
        raise ParityFailed(f"the graphs break the contract: {error}") from None
    outputs = in_batches(lambda batch: task.answer(graphs, manifest, batch), pixels)
    stored = [bound.max_deviation for bound in manifest.precisions if bound.file in manifest.stored]
    return task.judge_answers(answers, outputs, manifest, max(stored, default=0.0))


def require_answers(files: Mapping[str, bytes], manifest: pb.Manifest, agreed: Agreed) -> None:
    """Compare graphs with the answers that the network gives, and note the agreement in the manifest.

    The assumptions that the answers confirm are marked so, and the others with the reason. Raises as judge_graphs, and
    ParityFailed if the outputs differ.
    """
    judged = judge_graphs(files, manifest, agreed.answers)
    judged.require()
    manifest.parity.checks.append(judged.check)
    if manifest.verified_against != pb.REFERENCE_USER_CODE:
        manifest.verified_against = pb.REFERENCE_USER_ANSWERS
    for assumption in manifest.assumptions:
        if not assumption.confirmed:
            assumption.unconfirmed = agreed.unconfirmed.get(assumption.name, "")
            assumption.confirmed = not assumption.unconfirmed
