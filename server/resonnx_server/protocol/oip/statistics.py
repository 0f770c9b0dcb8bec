"""The counters of versions as messages of the tensor protocol."""

from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.access.caller import Caller
from resonnx_server.inference.registry import Models
from resonnx_server.observe.metrics import Metrics
from resonnx_server.observe.stats import Duration, ModelStats


class Statistics:
    """The counters that /metrics shows.

    Args:
        models: The registry.
        metrics: The counters of all versions, also of those that do not serve any more.
    """

    def __init__(self, models: Models, metrics: Metrics) -> None:
        self._models = models
        self._metrics = metrics

    def of(self, name: str, version: str, caller: Caller) -> pb.ModelStatisticsResponse:
        """Return the counters of a version, of all versions of a model, or of all models that a caller may use.

        Versions that do not serve any more are among them if they have counted anything.

        Args:
            name: The model's name; "" for all models.
            version: A number or a label; "" for all versions.
            caller: Who asks.

        Raises:
            ModelNotAllowed: The caller may not use the model.
            NotFound: There is no such model or version.
            ServerError: As Models.get, if it does not serve and has counted nothing.
        """
        found = self._known()
        if name:
            self._models.check(name, caller)
            found = self._chosen(found, name, version, caller)
        return pb.ModelStatisticsResponse(
            model_stats=[_message(*key, stats) for key, stats in sorted(found.items()) if caller.may_use(key[0])]
        )

    def _chosen(
        self, known: dict[tuple[str, int], ModelStats], name: str, version: str, caller: Caller
    ) -> dict[tuple[str, int], ModelStats]:
        is_number = version.isascii() and version.isdecimal()
        number = self._models.labels(name).get(version) or (int(version) if is_number else 0)
        chosen = {key: stats for key, stats in known.items() if key[0] == name and (not version or key[1] == number)}
        if not chosen:
            model = self._models.find(name, version, caller=caller)
            chosen = {(model.name, model.version): model.stats}
        return chosen

    def _known(self) -> dict[tuple[str, int], ModelStats]:
        """Return the counters of versions that serve, or have counted anything, by name and version."""
        counted = {key: stats for key, stats in self._metrics.models().items() if stats.has_counted}
        return counted | {(model.name, model.version): model.stats for model in self._models}


def _message(name: str, version: int, stats: ModelStats) -> pb.ModelStatistics:
    """Return the counters of a version since it was first loaded."""
    nothing = pb.StatisticDuration()
    result = pb.ModelStatistics(
        name=name,
        version=str(version),
        last_inference=stats.last_inference_ms,
        inference_count=stats.inferences,
        execution_count=stats.executions,
        inference_stats=pb.InferStatistics(
            success=_duration(stats.success),
            fail=_duration(stats.failed),
            queue=_duration(stats.queue),
            compute_input=_duration(stats.compute_input),
            compute_infer=_duration(stats.compute_infer),
            compute_output=_duration(stats.compute_output),
            # Answers are not cached.
            cache_hit=nothing,
            cache_miss=nothing,
        ),
    )
    for size, batch in sorted(stats.batches.items()):
        result.batch_stats.add(
            batch_size=size,
            compute_input=_duration(batch.compute_input),
            compute_infer=_duration(batch.compute_infer),
            compute_output=_duration(batch.compute_output),
        )
    for index, response in sorted(stats.responses.items()):
        result.response_stats[str(index)].CopyFrom(
            pb.InferResponseStatistics(
                compute_infer=_duration(response.success),
                compute_output=pb.StatisticDuration(count=response.success.count),
                success=_duration(response.success),
                fail=_duration(response.fail),
                empty_response=nothing,
                cancel=_duration(response.cancel),
            )
        )
    return result


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)
