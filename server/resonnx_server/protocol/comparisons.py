"""What comparisons of versions have found, as messages."""

from typing import Final

from resonnx_proto.v1 import repository_pb2 as pb

from resonnx_server.access.caller import Caller
from resonnx_server.comparison.comparison import Comparison, Mode, State
from resonnx_server.comparison.comparisons import Comparisons
from resonnx_server.inference.tasks import CLASSIFY

MODES: Final = {
    Mode.SHADOW: pb.COMPARISON_MODE_SHADOW,
    Mode.CANARY: pb.COMPARISON_MODE_CANARY,
}
_STATES: Final = {
    State.RUNNING: pb.COMPARISON_STATE_RUNNING,
    State.PROMOTED: pb.COMPARISON_STATE_PROMOTED,
    State.ROLLED_BACK: pb.COMPARISON_STATE_ROLLED_BACK,
    State.ENDED: pb.COMPARISON_STATE_ENDED,
}


class ComparisonStatus:
    """The comparisons under way, and the last one of each other model.

    Args:
        comparisons: All of them.
    """

    def __init__(self, comparisons: Comparisons) -> None:
        self._comparisons = comparisons

    def of(self, caller: Caller, model: str = "") -> pb.StatusResponse:
        """Return those of the models that a caller may use; with `model`, only that of this model."""
        found = [it for it in self._comparisons.status() if model in ("", it.name) and caller.may_use(it.name)]
        return pb.StatusResponse(comparisons=[told(it) for it in found])


def told(comparison: Comparison) -> pb.Comparison:
    """Return what is known of a comparison."""
    plan, evidence = comparison.plan, comparison.evidence
    found = pb.Comparison(
        model=comparison.name,
        version=comparison.new_version,
        serving_version=comparison.base_version,
        mode=MODES[plan.mode],
        share=plan.share,
        promote_if="" if plan.rule is None else str(plan.rule),
        state=_STATES[comparison.state],
        reason=comparison.reason or comparison.judgement.reason,
        answers=evidence.n,
        equal=evidence.agreeing,
        errors=evidence.errors,
        dropped=comparison.copies.dropped,
        waiting=len(comparison.copies),
        compute_ratio=evidence.compute or 0.0,
        calls=evidence.served.count,
        serving_calls=evidence.served_by_base.count,
        report=comparison.report,
    )
    if comparison.task is CLASSIFY:
        found.max_probability_difference = evidence.dp_max
        found.mean_probability_difference = evidence.dp_sum / max(1, evidence.n)
    else:
        found.mean_edit_distance = evidence.edits / max(1, evidence.n)
    if (p99_s := evidence.p99_s) is not None:
        found.p99_ms, found.serving_p99_ms = (each * 1000 for each in p99_s)
    return found
