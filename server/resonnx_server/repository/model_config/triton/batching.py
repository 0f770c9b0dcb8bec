"""Reads what a Triton model configuration says of batches, queues, instances and versions, as a model's settings."""

from typing import Any, Final

from resonnx_proto.inference import model_config_pb2 as pb

from resonnx_server.repository.model_config.triton.text import Text, place

# Largest batch that is run; requests may have more rows.
_LARGEST_BATCH: Final = 64
_MOST_DELAY_US: Final = 1_000_000
_MOST_INSTANCES: Final = 64


def batch_settings(text: Text) -> tuple[dict[str, Any], list[str]]:
    """Return the settings that a configuration gives, and remarks on what has no effect.

    Raises:
        ModelRefused: A value is out of range.
    """
    settings: dict[str, Any] = {}
    remarks: list[str] = []
    for found, remark in (_batch_size(text), _versions(text), _dynamic_batching(text), _instances(text)):
        settings |= found
        remarks += remark
    return settings, remarks


_Found = tuple[dict[str, Any], list[str]]


def _batch_size(text: Text) -> _Found:
    size = text.message.max_batch_size
    line = text.fields.line("max_batch_size")
    if size < 0:
        raise text.refused(f"max_batch_size is {size}; it must be 0 (no batches) or more", "max_batch_size")
    # As in Triton, a configuration without inputs or outputs is completed, with a batch axis if the graph has one.
    if size == 0 and not (text.message.input and text.message.output):
        return {}, []
    if size <= _LARGEST_BATCH:
        return {"max_batch_size": size}, []
    remark = (
        f"{place(line)}: max_batch_size {size} is more than {_LARGEST_BATCH}, the largest batch that is run: requests "
        "of more rows are run in parts"
    )
    return {"max_batch_size": _LARGEST_BATCH}, [remark]


def _versions(text: Text) -> _Found:
    policy = text.message.version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return {"version_policy": "all"}, []
        case "latest":
            if policy.latest.num_versions < 1:
                raise text.refused("version_policy: latest needs num_versions of 1 or more", "version_policy")
            return {"version_policy": f"latest: {policy.latest.num_versions}"}, []
        case "specific":
            versions = sorted({*policy.specific.versions})
            if not versions or versions[0] < 1:
                raise text.refused(
                    f"version_policy: specific needs versions of 1 or more; it has {versions}", "version_policy"
                )
            return {"version_policy": f"specific: {versions}"}, []
    return {}, []


def _dynamic_batching(text: Text) -> _Found:
    batching = text.message.dynamic_batching
    delay_us = batching.max_queue_delay_microseconds
    if delay_us > _MOST_DELAY_US:
        raise text.refused(
            f"dynamic_batching.max_queue_delay_microseconds is {delay_us}; at most {_MOST_DELAY_US} (1 s) is allowed",
            "dynamic_batching",
            "max_queue_delay_microseconds",
        )
    return ({"max_queue_delay_us": delay_us} if delay_us else {}), []


def _instances(text: Text) -> _Found:
    """Counts of instances on the CPU are a bound: how many batches at once are fastest is measured."""
    groups = text.message.instance_group
    count, remarks = 0, []
    for number, group in enumerate(groups):
        if group.count < 0:
            raise text.refused(f"instance_group has the count {group.count}", "instance_group", number=number)
        if group.kind == pb.ModelInstanceGroup.KIND_GPU:
            line = text.fields.line("instance_group", number=number)
            remarks.append(
                f"{place(line)}: instance_group of KIND_GPU has no effect: the model runs on the device of the setting "
                "`provider`"
            )
        else:
            # Triton's default is one.
            count += group.count or 1
    return ({"max_instances": min(count, _MOST_INSTANCES)} if count else {}), remarks
