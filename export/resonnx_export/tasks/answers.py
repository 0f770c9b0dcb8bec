"""Compares a version's graphs with the user's answers, and puts the result into its manifest."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused

from resonnx_export.answers.alternatives import picture_changes
from resonnx_export.answers.judging import Judged
from resonnx_export.answers.pictures import pixels_of
from resonnx_export.answers.recorded import Answers
from resonnx_export.answers.search import first_of
from resonnx_export.answers.subject import in_batches
from resonnx_export.errors import ParityFailed
from resonnx_export.pictures.recipes import RESIZING
from resonnx_export.proof.parity import open_session
from resonnx_export.tasks import task_of

# Pictures that are resized in other ways, to see whether that changes them.
_COMPARED: Final = 8


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


def require_answers(files: Mapping[str, bytes], manifest: pb.Manifest, answers: Answers) -> None:
    """Compare graphs with the user's answers, and note the agreement in the manifest.

    What the answers confirm of the assumptions is marked so: all but those of the preprocessing that these pictures do
    not tell from others. Raises as judge_graphs, and ParityFailed if the outputs differ.
    """
    judged = judge_graphs(files, manifest, answers)
    judged.require()
    manifest.parity.checks.append(judged.check)
    if manifest.verified_against != pb.REFERENCE_USER_CODE:
        manifest.verified_against = pb.REFERENCE_USER_ANSWERS
    unseen = _untold(answers, manifest.input)
    for assumption in manifest.assumptions:
        assumption.confirmed |= assumption.name not in unseen


def _untold(answers: Answers, recipe: pb.ImageInput) -> set[str]:
    """Return the assumptions of the preprocessing that answers do not confirm.

    The normalisation, if the recorder assumed it; the resizing of recorded pixels, or of files that have the same
    pixels by another one; the order of channels that are all alike.
    """
    pixels = pixels_of(answers, recipe)
    unseen = {"normalisation", "channel-order", "scale"} if answers.preprocess == "assumed" else set[str]()
    if (pixels == pixels[..., :1]).all():
        unseen.add("channel-order")
    few = first_of(answers, _COMPARED)
    for change in picture_changes(recipe, files=True):
        if change.axis in ("resize", "filter") and RESIZING not in unseen:
            other = None if answers.pixels is not None else pixels_of(few, change.input.apply(recipe))
            if other is None or np.array_equal(other, pixels[:_COMPARED]):
                unseen.add(RESIZING)
    return unseen
