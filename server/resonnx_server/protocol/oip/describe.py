"""A loaded model in the tensor protocol's terms: datatypes, metadata, Triton's model configuration."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import model_config_pb2 as config_pb
from resonnx_proto.v1 import manifest_pb2

from resonnx_server.access.caller import Caller
from resonnx_server.declaration import DeclaredTensor
from resonnx_server.inference.registry import Model, Models
from resonnx_server.inference.repository_control import State, VersionState
from resonnx_server.inference.requests import DEFAULT_PRIORITY, PRIORITY_LEVELS
from resonnx_server.inference.tasks import VIDEO
from resonnx_server.runtime.bfloat16 import BFLOAT16
from resonnx_server.runtime.session import CPU, OPENVINO, TensorSpec
from resonnx_server.version_policy import VersionPolicy

DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
DATATYPES: Final[dict[np.dtype[Any], str]] = {dtype: name for name, dtype in DTYPES.items()}
_STATES: Final = {
    State.READY: "READY",
    State.DRAINING: "UNLOADING",
    State.UNLOADED: "UNAVAILABLE",
    State.REFUSED: "UNAVAILABLE",
}
_PLATFORM: Final = "onnxruntime_onnx"
IMAGE: Final = "image"
# Picture files under a name of their own, for clients that learn datatypes from metadata: `image` takes them as well.
ENCODED_IMAGE: Final = TensorSpec("encoded_image", np.dtype(object), ("batch",))
_ENCODED_CLIP: Final = TensorSpec(ENCODED_IMAGE.name, ENCODED_IMAGE.dtype, ("batch", "frames"))
# Frames of each clip, where clips of a request are padded to the longest of them.
LENGTHS: Final = TensorSpec("lengths", np.dtype(np.int64), ("batch",))


@dataclass(frozen=True)
class Input:
    """An input as clients see it. If `is_batched`, its first axis is the batch's."""

    spec: TensorSpec
    is_optional: bool
    is_batched: bool

    @property
    def shape(self) -> list[int]:
        """As clients see it, with the batch axis."""
        return shape(self.spec, batched=self.is_batched)


def inputs(model: Model) -> tuple[Input, ...]:
    """Return a model's inputs. A model of pictures or of clips of them has two, of which a request gives one."""
    batched = model.max_batch_size > 0
    if model.task is VIDEO:
        lengths = Input(LENGTHS, is_optional=True, is_batched=True)
        if model.pictures is None:
            return Input(model.inputs[0], is_optional=False, is_batched=True), lengths
        pixels, files = (Input(spec, is_optional=True, is_batched=True) for spec in (model.inputs[0], _ENCODED_CLIP))
        return pixels, files, lengths
    if model.manifest is not None:
        # The graph's own input was checked against the manifest at load.
        pixels, files = (Input(spec, is_optional=True, is_batched=batched) for spec in (model.inputs[0], ENCODED_IMAGE))
        return pixels, files
    return (
        *(Input(spec, is_optional=False, is_batched=batched) for spec in model.inputs),
        *(Input(spec, is_optional=True, is_batched=False) for spec in model.optional_inputs),
    )


def shape(spec: TensorSpec, *, batched: bool) -> list[int]:
    """Return a tensor's shape as clients see it: -1 for free sizes, and at least one size beside a batch axis.

    A number a row is [-1, 1], and a single number [1]: Triton's configuration has no tensors without dims.
    """
    sizes = [size if isinstance(size, int) else -1 for size in spec.shape]
    return [*sizes, 1] if _is_scalar(len(sizes), batched=batched) else sizes


def _is_scalar(rank: int, *, batched: bool) -> bool:
    return rank == int(batched)


def metadata(model: Model, versions: Sequence[int] = ()) -> pb.ModelMetadataResponse:
    """Return the inputs and outputs, with the batch axis; `versions` are those of the model that serve."""

    def tensor(spec: TensorSpec, shape: list[int]) -> pb.ModelMetadataResponse.TensorMetadata:
        return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=DATATYPES[spec.dtype], shape=shape)

    batched = model.max_batch_size > 0

    return pb.ModelMetadataResponse(
        name=model.name,
        versions=[str(version) for version in versions or (model.version,)],
        platform=_PLATFORM,
        inputs=[tensor(each.spec, each.shape) for each in inputs(model)],
        outputs=[tensor(spec, shape(spec, batched=batched)) for spec in model.outputs],
    )


def index(models: Models, caller: Caller, *, ready: bool) -> pb.RepositoryIndexResponse:
    """Return the versions of all models that a caller may use; with `ready`, those that serve."""
    return pb.RepositoryIndexResponse(
        models=[
            _index_entry(each)
            for each in models.states()
            if caller.may_use(each.name) and (each.state is State.READY or not ready)
        ]
    )


def _index_entry(version: VersionState) -> pb.RepositoryIndexResponse.ModelIndex:
    """Return a version in the repository's index: Triton's words for its state, and why or how far."""
    state = _STATES.get(version.state, "LOADING")
    reason = version.reason or ("" if version.state is State.READY else version.state.value)
    return pb.RepositoryIndexResponse.ModelIndex(
        name=version.name, version=str(version.version), state=state, reason=reason
    )


def config(model: Model) -> config_pb.ModelConfig:
    """Return the model as a Triton model configuration; dims do not include the batch axis."""
    on_cpu = model.sessions[0].candidate.provider in (CPU, OPENVINO)
    kind = config_pb.ModelInstanceGroup.KIND_CPU if on_cpu else config_pb.ModelInstanceGroup.KIND_GPU
    result = config_pb.ModelConfig(
        name=model.name,
        platform=_PLATFORM,
        backend="onnxruntime",
        version_policy=_versions(VersionPolicy.parse(model.version_policy)),
        max_batch_size=model.max_batch_size,
        input=[_input(each, model) for each in inputs(model)],
        output=[_output(spec, model) for spec in model.outputs],
        instance_group=[config_pb.ModelInstanceGroup(name=model.name, count=model.sessions[0].instances, kind=kind)],
        default_model_filename=model.sessions[0].file,
        model_transaction_policy=config_pb.ModelTransactionPolicy(decoupled=False),
    )
    if model.max_batch_size:
        result.dynamic_batching.CopyFrom(_batching(model))
    result.parameters["task"].string_value = manifest_pb2.Task.Name(model.task.kind)
    result.parameters["verified"].string_value = str(model.verified).lower()
    result.parameters["verified_against"].string_value = model.verified_against
    if model.assumptions:
        # Clients (pytriton) fail at a parameter without a value.
        result.parameters["assumptions"].string_value = "; ".join(model.assumptions)
    for report in model.sessions:
        result.parameters[f"candidate:{report.file}"].string_value = str(report.candidate)
    return result


def _versions(policy: VersionPolicy) -> config_pb.ModelVersionPolicy:
    forms = config_pb.ModelVersionPolicy
    if policy.specific is not None:
        return forms(specific=forms.Specific(versions=sorted(policy.specific)))
    return forms(all=forms.All()) if policy.latest is None else forms(latest=forms.Latest(num_versions=policy.latest))


def _batching(model: Model) -> config_pb.ModelDynamicBatching:
    policies = model.engine.policies
    if policies is None:
        policy = config_pb.ModelQueuePolicy(
            max_queue_size=model.max_queue_size, allow_timeout_override=model.allow_timeout_override
        )
        return config_pb.ModelDynamicBatching(
            default_queue_policy=policy,
            priority_levels=PRIORITY_LEVELS,
            default_priority_level=DEFAULT_PRIORITY,
            max_queue_delay_microseconds=model.max_queue_delay_us,
        )
    levels = PRIORITY_LEVELS if policies.levels is None else policies.levels
    delay, reject = config_pb.ModelQueuePolicy.DELAY, config_pb.ModelQueuePolicy.REJECT
    # 0 is the default's key.
    messages = {
        priority: config_pb.ModelQueuePolicy(
            timeout_action=delay if policy.delays else reject,
            default_timeout_microseconds=policy.timeout_ns // 1000,
            allow_timeout_override=policy.allow_timeout_override or model.allow_timeout_override,
            max_queue_size=policy.max_requests or model.max_queue_size,
        )
        for priority, policy in {0: policies.default, **policies.by_priority}.items()
    }
    return config_pb.ModelDynamicBatching(
        default_queue_policy=messages.pop(0),
        priority_levels=levels,
        default_priority_level=policies.default_priority if levels else 0,
        priority_queue_policy=messages,
        max_queue_delay_microseconds=model.max_queue_delay_us,
    )


def _input(each: Input, model: Model) -> config_pb.ModelInput:
    spec, batched = each.spec, each.is_batched
    declared = model.declaration.input(spec.name) if model.declaration is not None else None
    is_picture = model.pictures is not None and model.task is not VIDEO and spec.name == IMAGE
    layout = "NHWC" if is_picture else (declared and declared.layout) or "NONE"
    return config_pb.ModelInput(
        name=spec.name,
        data_type=_data_type(spec),
        format=f"FORMAT_{layout}",
        dims=each.shape[int(batched) :],
        reshape=_reshape(spec, declared, batched=batched),
        optional=each.is_optional,
    )


def _output(spec: TensorSpec, model: Model) -> config_pb.ModelOutput:
    batched = model.max_batch_size > 0
    declared = model.declaration.output(spec.name) if model.declaration is not None else None
    return config_pb.ModelOutput(
        name=spec.name,
        data_type=_data_type(spec),
        dims=shape(spec, batched=batched)[int(batched) :],
        label_filename=declared.label_file if declared is not None else "",
        reshape=_reshape(spec, declared, batched=batched),
    )


def _reshape(
    spec: TensorSpec, declared: DeclaredTensor | None, *, batched: bool
) -> config_pb.ModelTensorReshape | None:
    """Return the declared reshape of a tensor, or that of one without dims, which clients see as [1]; else None."""
    if declared is not None and declared.reshape is not None:
        return config_pb.ModelTensorReshape(shape=declared.reshape)
    return config_pb.ModelTensorReshape() if _is_scalar(len(spec.shape), batched=batched) else None


def _data_type(spec: TensorSpec) -> str:
    name = DATATYPES[spec.dtype]
    return "TYPE_STRING" if name == "BYTES" else f"TYPE_{name}"
