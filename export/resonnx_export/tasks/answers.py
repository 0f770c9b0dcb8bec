"""Compares a version's graphs with the user's answers, and puts the result into its manifest."""

from collections.abc import Mapping

from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused

from resonnx_export.answers.agreement import Agreed
from resonnx_export.answers.judging import Judged
from resonnx_export.answers.pictures import pixels_of
from resonnx_export.answers.recorded import Answers
from resonnx_export.answers.subject import in_batches
from resonnx_export.assumptions.telling import ANSWERED
from resonnx_export.errors import ParityFailed
from resonnx_export.proof.parity import open_session
from resonnx_export.tasks import task_of
from resonnx_export.wording import precision_name


def judge_graphs(files: Mapping[str, bytes], manifest: pb.Manifest, answers: Answers) -> Judged:
    """Compare graphs with the user's answers; those in reduced precision by reduced_rule.

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
    least_bound = _widest(manifest).max_deviation if manifest.stored else 0.0
    return task.judge_answers(answers, outputs, manifest, least_bound)


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


def compare_reduced(files: Mapping[str, bytes], manifest: pb.Manifest, answers: Answers) -> str:
    """Compare files in reduced precision with the answers that the float32 graphs give, and note it in the manifest.

    The rule is reduced_rule's. Returns a line for the user. Raises as judge_graphs, and ParityFailed if the outputs
    are not within the rule.
    """
    rule = reduced_rule(manifest)
    judged = judge_graphs(files, manifest, answers)
    check, bound = judged.check, _widest(manifest)
    if not judged.passed:
        raise ParityFailed(
            f"{check.name}: {judged.detail}; {rule}. The float32 graph gives your answers: add pictures like theirs to "
            "the calibration, or export with --precision fp32",
            check,
        )
    manifest.parity.agreements.add(
        file=bound.file,
        precision=bound.precision,
        asked=ANSWERED,
        pictures=check.pictures,
        identical=check.identical,
        max_abs_difference=check.max_abs_difference,
        max_abs_reference=check.max_abs_reference,
        bound=check.bound,
    )
    return f"your answers, {precision_name(bound.precision)}: {judged.detail}; {rule}"


def reduced_rule(manifest: pb.Manifest) -> str:
    """Return the rule that files in reduced precision are held to; "" if all are in float32."""
    if not manifest.stored:
        return ""
    bound = _widest(manifest)
    stored = f"{bound.file} is in {precision_name(bound.precision)} and held to its own bound"
    if manifest.HasField("captioner"):
        rule = f"the same words, except after two whose scores lie within {bound.max_deviation:.2g} of the largest"
    else:
        rule = (
            f"logits within {bound.max_deviation:.2g} of max|answer|, and the same top class where the margin is wider"
        )
    return f"{stored}: {rule}"


def _widest(manifest: pb.Manifest) -> pb.PrecisionBound:
    """Return the widest bound of the files in reduced precision, which are judged together."""
    return max(
        (each for each in manifest.precisions if each.file in manifest.stored), key=lambda each: each.max_deviation
    )
