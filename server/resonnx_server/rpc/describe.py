"""A loaded model in the tensor protocol's words: metadata, Triton's model configuration, statistics."""

from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import model_config_pb2 as config_pb
from resonnx_proto.v1 import manifest_pb2

from resonnx_server.engine.batcher import DEFAULT_PRIORITY, PRIORITY_LEVELS
from resonnx_server.engine.model import Model
from resonnx_server.observe.stats import Duration
from resonnx_server.rpc.tensors import datatype
from resonnx_server.runtime.session import CPU, OPENVINO, TensorSpec

_PLATFORM = "onnxruntime_onnx"


def shape(spec: TensorSpec) -> list[int]:
    """Return a tensor's shape with -1 for what is free."""
    return [size if isinstance(size, int) else -1 for size in spec.shape]


def metadata(model: Model) -> pb.ModelMetadataResponse:
    """Describe inputs and outputs, with the batch axis."""
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=[str(model.version)],
        platform=_PLATFORM,
        inputs=[tensor(name=s.name, datatype=datatype(s.dtype), shape=shape(s)) for s in model.inputs],
        outputs=[tensor(name=s.name, datatype=datatype(s.dtype), shape=shape(s)) for s in model.outputs],
    )


def config(model: Model) -> config_pb.ModelConfig:
    """Describe the model as a Triton model configuration; dims leave the batch axis out."""
    first = 1 if model.max_batch_size else 0
    on_cpu = model.sessions[0].candidate.provider in (CPU, OPENVINO)
    kind = config_pb.ModelInstanceGroup.KIND_CPU if on_cpu else config_pb.ModelInstanceGroup.KIND_GPU
    result = config_pb.ModelConfig(
        name=model.name,
        platform=_PLATFORM,
        backend="onnxruntime",
        version_policy=config_pb.ModelVersionPolicy(latest=config_pb.ModelVersionPolicy.Latest(num_versions=1)),
        max_batch_size=model.max_batch_size,
        input=[config_pb.ModelInput(name=s.name, data_type=_data_type(s), dims=shape(s)[first:]) for s in model.inputs],
        output=[
            config_pb.ModelOutput(name=s.name, data_type=_data_type(s), dims=shape(s)[first:]) for s in model.outputs
        ],
        instance_group=[config_pb.ModelInstanceGroup(name=model.name, count=model.sessions[0].instances, kind=kind)],
        default_model_filename=model.sessions[0].file,
        model_transaction_policy=config_pb.ModelTransactionPolicy(decoupled=False),
    )
    if model.max_batch_size:
        policy = config_pb.ModelQueuePolicy(max_queue_size=model.max_queue_size, allow_timeout_override=True)
        result.dynamic_batching.CopyFrom(
            config_pb.ModelDynamicBatching(
                default_queue_policy=policy,
                priority_levels=PRIORITY_LEVELS,
                default_priority_level=DEFAULT_PRIORITY,
            )
        )
    result.parameters["task"].string_value = manifest_pb2.Task.Name(model.task)
    result.parameters["verified"].string_value = str(model.verified).lower()
    for report in model.sessions:
        result.parameters[f"candidate:{report.file}"].string_value = str(report.candidate)
    return result


def statistics(model: Model) -> pb.ModelStatistics:
    """Return the model's counters since it was loaded."""
    stats = model.stats
    result = pb.ModelStatistics(
        name=model.name,
        version=str(model.version),
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
        ),
    )
    for size, batch in sorted(stats.batches.items()):
        result.batch_stats.add(
            batch_size=size,
            compute_input=_duration(batch.compute_input),
            compute_infer=_duration(batch.compute_infer),
            compute_output=_duration(batch.compute_output),
        )
    return result


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)


def _data_type(spec: TensorSpec) -> str:
    name = datatype(spec.dtype)
    return "TYPE_STRING" if name == "BYTES" else f"TYPE_{name}"
