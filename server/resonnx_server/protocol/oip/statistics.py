"""A version's counters as a message of the tensor protocol."""

from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.observe.stats import Duration, ModelStats


def statistics(name: str, version: int, stats: ModelStats) -> pb.ModelStatistics:
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
