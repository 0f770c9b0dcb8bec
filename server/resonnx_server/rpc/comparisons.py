"""resonnx.v1.Repository: comparisons of versions, started, told of and decided by request."""

import logging
import math
from typing import Final

from resonnx_proto.v1 import repository_pb2 as pb
from resonnx_proto.v1 import repository_pb2_grpc

from resonnx_server.comparison.comparison import Comparison, Mode, Plan, State
from resonnx_server.comparison.comparisons import Comparisons
from resonnx_server.comparison.rule import parse_rule
from resonnx_server.errors import InvalidInput, ModelNotAllowed
from resonnx_server.inference.registry import Models
from resonnx_server.inference.tasks import CLASSIFY
from resonnx_server.rpc.boundary import Context, counted

_log = logging.getLogger(__name__)

_MODES: Final = {
    pb.COMPARISON_MODE_SHADOW: Mode.SHADOW,
    pb.COMPARISON_MODE_CANARY: Mode.CANARY,
}
_DEFAULT_SHARES: Final = {Mode.SHADOW: 0.1, Mode.CANARY: 0.05}
_MODE_NUMBERS: Final = {mode: number for number, mode in _MODES.items()}
_STATES: Final = {
    State.RUNNING: pb.COMPARISON_STATE_RUNNING,
    State.PROMOTED: pb.COMPARISON_STATE_PROMOTED,
    State.ROLLED_BACK: pb.COMPARISON_STATE_ROLLED_BACK,
    State.ENDED: pb.COMPARISON_STATE_ENDED,
}


class RepositoryServicer(repository_pb2_grpc.RepositoryServicer):
    """The comparisons of a server.

    Args:
        comparisons: They are made there.
        models: The registry.

    Attributes:
        rejected: Counts calls that fail.
    """

    def __init__(self, comparisons: Comparisons, models: Models) -> None:
        self._comparisons = comparisons
        self.rejected = models.rejected

    @counted
    async def StartComparison(  # noqa: N802
        self, request: pb.StartComparisonRequest, context: Context
    ) -> pb.StartComparisonResponse:
        """Load a version beside the one that serves, and begin to compare them."""
        self._check(request.model, context)
        if request.version < 1:
            raise InvalidInput("version", f"{request.version} is not the number of a version; 1 is the least")
        plan = _plan(request)
        _log.info("a comparison is started by request", extra={"model": request.model, "caller": context.caller.name})
        comparison = await self._comparisons.start(request.model, request.version, plan)
        return pb.StartComparisonResponse(comparison=_told(comparison))

    @counted
    async def Promote(self, request: pb.PromoteRequest, context: Context) -> pb.PromoteResponse:  # noqa: N802
        """Let the new version of a comparison answer calls that name no version."""
        self._check(request.model, context)
        comparison = await self._comparisons.promote(request.model, f"by request of {context.caller.name}")
        return pb.PromoteResponse(comparison=_told(comparison))

    @counted
    async def Rollback(self, request: pb.RollbackRequest, context: Context) -> pb.RollbackResponse:  # noqa: N802
        """Unload the new version of a comparison."""
        self._check(request.model, context)
        comparison = await self._comparisons.roll_back(request.model, f"by request of {context.caller.name}")
        return pb.RollbackResponse(comparison=_told(comparison))

    @counted
    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:  # noqa: N802
        """Tell the comparisons under way, and the last one of each other model."""
        if request.model:
            self._check(request.model, context)
        found = [it for it in self._comparisons.status() if request.model in ("", it.name)]
        return pb.StatusResponse(comparisons=[_told(it) for it in found if context.caller.may_use(it.name)])

    def _check(self, name: str, context: Context) -> None:
        """Raise ModelNotAllowed or InvalidInput."""
        if not name:
            raise InvalidInput("model", "must not be empty")
        if not context.caller.may_use(name):
            raise ModelNotAllowed(name)


def _plan(request: pb.StartComparisonRequest) -> Plan:
    if (mode := _MODES.get(request.mode)) is None:
        raise InvalidInput("mode", f"{request.mode} is neither COMPARISON_MODE_SHADOW nor COMPARISON_MODE_CANARY")
    share = request.share or _DEFAULT_SHARES[mode]
    if not (math.isfinite(share) and 0 < share <= 1):
        raise InvalidInput("share", f"{request.share:g} is not above 0 and at most 1")
    rule = parse_rule(request.promote_if) if request.promote_if else None
    return Plan(mode, share, rule, request.keep if request.HasField("keep") else None)


def _told(comparison: Comparison) -> pb.Comparison:
    plan, evidence = comparison.plan, comparison.evidence
    told = pb.Comparison(
        model=comparison.name,
        version=comparison.new_version,
        serving_version=comparison.base_version,
        mode=_MODE_NUMBERS[plan.mode],
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
        told.max_probability_difference = evidence.dp_max
        told.mean_probability_difference = evidence.dp_sum / max(1, evidence.n)
    else:
        told.mean_edit_distance = evidence.edits / max(1, evidence.n)
    if (p99_s := evidence.p99_s) is not None:
        told.p99_ms, told.serving_p99_ms = (each * 1000 for each in p99_s)
    return told
