"""The rpc ModelStatistics."""

from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.inference.registry import Models
from resonnx_server.observe.metrics import Metrics
from resonnx_server.observe.stats import ModelStats
from resonnx_server.protocol.oip.statistics import statistics
from resonnx_server.rpc.boundary import Context, one_status


class StatisticsRpc:
    """ModelStatistics: the counters that /metrics shows.

    Args:
        models: The registry.
        metrics: The counters of all versions, also of those that do not serve any more.
    """

    rpcs = ("ModelStatistics",)
    extensions = ("statistics",)

    def __init__(self, models: Models, metrics: Metrics) -> None:
        self._models = models
        self._metrics = metrics

    @one_status
    async def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """Counters of a version, of all versions of a model if none is given, or of all models if no name is.

        Versions that do not serve any more are among them if they have counted anything.

        Raises:
            NotFound: There is no such model or version.
            ServerError: As Models.get, if it does not serve and has counted nothing.
        """
        if request.name:
            self._models.check(request.name, context.caller)
        found = self._known()
        if request.name:
            version = request.version
            number = self._models.labels(request.name).get(version) or (int(version) if version.isdecimal() else 0)
            chosen = {key: stats for key, stats in found.items() if key[0] == request.name}
            if version:
                chosen = {key: stats for key, stats in chosen.items() if key[1] == number}
            if not chosen:
                model = self._models.find(request.name, version, caller=context.caller)
                chosen = {(model.name, model.version): model.stats}
            found = chosen
        return pb.ModelStatisticsResponse(
            model_stats=[
                statistics(name, version, stats)
                for (name, version), stats in sorted(found.items())
                if context.caller.may_use(name)
            ]
        )

    def _known(self) -> dict[tuple[str, int], ModelStats]:
        """Return the counters of versions that serve, or have counted anything, by name and version."""
        counted = {key: stats for key, stats in self._metrics.models().items() if stats.has_counted}
        return counted | {(model.name, model.version): model.stats for model in self._models}
