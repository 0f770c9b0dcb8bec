"""Messages about models: served, loading and refused."""

from typing import Final

from resonnx_proto.inference import grpc_service_pb2 as oip_pb
from resonnx_proto.v1 import vision_pb2

from resonnx_server.access.caller import Caller
from resonnx_server.inference.registry import Model, Models
from resonnx_server.inference.repository_control import State
from resonnx_server.protocol.oip import describe

_STATES: Final = {
    State.DRAINING: vision_pb2.MODEL_STATE_DRAINING,
    State.UNLOADED: vision_pb2.MODEL_STATE_UNLOADED,
    State.REFUSED: vision_pb2.MODEL_STATE_REFUSED,
}


def list_models(models: Models, caller: Caller) -> vision_pb2.ListModelsResponse:
    """Return every version of the repository's models that the caller may use, by name and version."""
    serving = {(model.name, model.version): _summary(model, models) for model in models}
    response = vision_pb2.ListModelsResponse()
    for each in models.states():
        if caller.may_use(each.name):
            summary = response.models.add(name=each.name, version=each.version)
            if (its := serving.get((each.name, each.version))) is not None:
                summary.CopyFrom(its)
            else:
                summary.state = _STATES.get(each.state, vision_pb2.MODEL_STATE_LOADING)
            summary.stage, summary.reason = each.state.value, each.reason
    return response


def get_model(model: Model, models: Models, *, max_message_bytes: int, details: bool) -> vision_pb2.GetModelResponse:
    """Return a model's manifest, how it is served, and its inputs and outputs.

    Args:
        model: The model.
        models: The registry, which has its labels.
        max_message_bytes: The server's limit.
        details: Tell the sources and the versions of tools.
    """
    tensors = describe.metadata(model)
    given = zip(tensors.inputs, describe.inputs(model), strict=True)
    response = vision_pb2.GetModelResponse(
        summary=_summary(model, models),
        manifest=model.manifest,
        identity=model.identity,
        verified=model.verified,
        max_batch_size=model.max_batch_size,
        max_queue_size=model.max_queue_size,
        max_message_bytes=max_message_bytes,
        pictures=vision_pb2.PictureSettings(**model.pictures.in_force()) if model.pictures else None,
        inputs=[_tensor(tensor, optional=each.is_optional) for tensor, each in given],
        outputs=[_tensor(tensor) for tensor in tensors.outputs],
    )
    for report in model.sessions:
        session = response.sessions.add(
            file=report.file,
            provider=report.candidate.provider,
            precision=report.candidate.precision,
            instances=report.instances,
        )
        for size, cost in report.table.snapshot().items():
            session.latencies.add(batch_size=size, expected_us=cost.expected_ns / 1000, spread_us=cost.spread_ns / 1000)
    if not details and model.manifest is not None:
        response.manifest.ClearField("source")
        response.manifest.ClearField("tool_versions")
    return response


def _tensor(tensor: oip_pb.ModelMetadataResponse.TensorMetadata, *, optional: bool = False) -> vision_pb2.TensorInfo:
    return vision_pb2.TensorInfo(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape, optional=optional)


def _summary(model: Model, models: Models) -> vision_pb2.ModelSummary:
    labels = models.labels(model.name).items()
    return vision_pb2.ModelSummary(
        name=model.name,
        version=model.version,
        task=model.task.kind,
        state=vision_pb2.MODEL_STATE_READY,
        labels=sorted(label for label, version in labels if version == model.version),
        is_default=models.is_default(model),
        stage=State.READY.value,
    )
