"""The rpc ModelStatistics."""

from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.protocol.oip.statistics import Statistics
from resonnx_server.rpc.boundary import Context, one_status


class StatisticsRpc:
    """ModelStatistics.

    Args:
        statistics: The counters.
    """

    rpcs = ("ModelStatistics",)
    extensions = ("statistics",)

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    @one_status
    async def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """Counters of a version, of all versions of a model if none is given, or of all models if no name is.

        Raises:
            ServerError: As Statistics.of.
        """
        return self._statistics.of(request.name, request.version, context.caller)
