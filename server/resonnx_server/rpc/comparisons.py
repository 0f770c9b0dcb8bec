"""resonnx.v1.Repository: comparisons of versions, started, told of and decided by request."""

import logging
import math
from typing import Final

from resonnx_proto.v1 import repository_pb2 as pb
from resonnx_proto.v1 import repository_pb2_grpc

from resonnx_server.comparison.comparison import Mode, Plan
from resonnx_server.comparison.comparisons import Comparisons
from resonnx_server.comparison.rule import parse_rule
from resonnx_server.errors import InvalidInput, ModelNotAllowed
from resonnx_server.inference.registry import Models
from resonnx_server.protocol.comparisons import MODES, ComparisonStatus, told
from resonnx_server.rpc.boundary import Context, counted

_log = logging.getLogger(__name__)

_MODES: Final = {number: mode for mode, number in MODES.items()}
_DEFAULT_SHARES: Final = {Mode.SHADOW: 0.1, Mode.CANARY: 0.05}


class RepositoryServicer(repository_pb2_grpc.RepositoryServicer):
    """The comparisons of a server.

    Args:
        comparisons: They are made there.
        status: What they have found.
        models: The registry.

    Attributes:
        rejected: Counts calls that fail.
    """

    def __init__(self, comparisons: Comparisons, status: ComparisonStatus, models: Models) -> None:
        self._comparisons = comparisons
        self._status = status
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
        return pb.StartComparisonResponse(comparison=told(comparison))

    @counted
    async def Promote(self, request: pb.PromoteRequest, context: Context) -> pb.PromoteResponse:  # noqa: N802
        """Let the new version of a comparison answer calls that name no version."""
        self._check(request.model, context)
        comparison = await self._comparisons.promote(request.model, f"by request of {context.caller.name}")
        return pb.PromoteResponse(comparison=told(comparison))

    @counted
    async def Rollback(self, request: pb.RollbackRequest, context: Context) -> pb.RollbackResponse:  # noqa: N802
        """Unload the new version of a comparison."""
        self._check(request.model, context)
        comparison = await self._comparisons.roll_back(request.model, f"by request of {context.caller.name}")
        return pb.RollbackResponse(comparison=told(comparison))

    @counted
    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:  # noqa: N802
        """Tell the comparisons under way, and the last one of each other model."""
        if request.model:
            self._check(request.model, context)
        return self._status.of(context.caller, request.model)

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
