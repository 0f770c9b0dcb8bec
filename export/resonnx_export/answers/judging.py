"""Compares outputs for the recorded pictures with the user's answers."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.golden_examples import judge_logits

from resonnx_export.answers.recorded import Answers
from resonnx_export.assumptions.telling import ANSWERS
from resonnx_export.errors import BadInput, ParityFailed
from resonnx_export.proof.parity import RTOL
from resonnx_export.proof.reference import Float

# Of max|answer|, for answers that were not computed in fp32 on a CPU.
LOOSE: Final = 3e-3
# Rows of probabilities add up to 1 within this.
_SUM: Final = 1e-3


@dataclass(frozen=True)
class Judged:
    """A comparison with answers.

    Attributes:
        check: For the report; `identical` counts equal top classes, or equal captions.
        passed: Whether the outputs agree.
        deviation: max|difference| of logits as a share of max|answer|; of captions, the share that differs.
        detail: In words.
    """

    check: pb.ParityCheck
    passed: bool
    deviation: float
    detail: str

    def require(self) -> None:
        """Raise ParityFailed unless the outputs agree."""
        if not self.passed:
            raise ParityFailed(f"{self.check.name}: {self.detail}", self.check)


def check_name(answers: Answers, output: str = "") -> str:
    """Return the name of a check for the report."""
    return f"{ANSWERS}, {answers}: {output}" if output else f"{ANSWERS}, {answers}"


def bound_of(answers: Answers) -> float:
    """Return the greatest difference of logits, as a share of max|answer|."""
    return RTOL if answers.exact else LOOSE


def judge_classes(answers: Answers, logits: Float, *, least_bound: float = 0.0) -> Judged:
    """Compare logits [N,K] with the answers: by bound_of, and equal top classes outside that margin.

    `least_bound` replaces a smaller bound, for files in reduced precision. Raises BadInput if the answers are not
    logits of so many classes.
    """
    reference = answers.logits
    if reference is None:
        raise BadInput(f"{answers.name} holds {answers.kind}; a classifier is compared by its logits")
    if reference.shape[1] != logits.shape[1]:
        raise BadInput(
            f"{answers.name}: logits has {reference.shape[1]} classes, and the network {logits.shape[1]}; record "
            "answers of this checkpoint's model"
        )
    _refuse_probabilities(answers, reference)
    bound = max(bound_of(answers), least_bound)
    verdict = judge_logits(reference, logits[: len(reference)], bound)
    largest = float(np.abs(reference).max())
    finite = np.isfinite(logits).all()
    check = pb.ParityCheck(
        name=check_name(answers, "logits"),
        pictures=len(reference),
        max_abs_difference=float(np.abs(logits - reference).max()) if finite else float("inf"),
        max_abs_reference=largest,
        bound=bound * max(largest, float(np.finfo(np.float32).tiny)),
        identical=int((reference.argmax(axis=1) == logits.argmax(axis=1)).sum()),
    )
    detail = (
        f"max|difference| {verdict.deviation:.2g} of max|answer| (bound {bound:.2g}), "
        f"{check.identical} of {len(reference)} top classes the same"
    )
    return Judged(check, verdict.passed, verdict.deviation, detail)


def _refuse_probabilities(answers: Answers, logits: Float) -> None:
    sums = logits.sum(axis=1)
    if logits.shape[1] > 1 and logits.min() >= 0 and np.abs(sums - 1).max() < _SUM:
        raise BadInput(f"{answers.name}: logits holds probabilities, as each row adds up to 1; record the logits")
