"""Reads what a Triton model configuration says of batches, queues, instances and versions, as a model's settings."""

from typing import Any, Final

from resonnx_proto.inference import model_config_pb2 as pb

from resonnx_server.repository.model_config.triton.text import Text, place
from resonnx_server.runtime.session import has_gpu

# Largest batch that is run; requests may have more rows.
_LARGEST_BATCH: Final = 64
_MOST_DELAY_US: Final = 1_000_000
_MOST_INSTANCES: Final = 64
_MOST_LEVELS: Final = 8
_MOST_WAIT_US: Final = 86_400_000_000
_MOST_REQUESTS: Final = 1_000_000


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
    settings, remarks = _delay(text), list[str]()
    batching = text.message.dynamic_batching
    for found, remark in (_priorities(text), _policy(text, batching.default_queue_policy, "default_queue_policy")):
        settings |= found
        remarks += remark
    levels = settings["priority_levels"]
    for priority, policy in sorted(batching.priority_queue_policy.items()):
        if not 1 <= priority <= levels:
            raise text.refused(
                f"dynamic_batching.priority_queue_policy has the priority {priority}; priority_levels is {levels}",
                "dynamic_batching",
                "priority_queue_policy",
            )
        found, remark = _policy(text, policy, "priority_queue_policy")
        settings.setdefault("priority_policies", {})[priority] = found
        remarks += remark
    return settings, remarks


def _priorities(text: Text) -> _Found:
    """Return the levels of priority: without them, as in Triton, priorities of requests are ignored."""
    batching = text.message.dynamic_batching
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels and not 1 <= default <= levels:
        raise text.refused(
            f"dynamic_batching.default_priority_level is {default}; it must be 1 to priority_levels, {levels}",
            "dynamic_batching",
            "default_priority_level" if default else "priority_levels",
        )
    if levels > _MOST_LEVELS:
        raise text.refused(
            f"dynamic_batching.priority_levels is {levels}; at most {_MOST_LEVELS} are served",
            "dynamic_batching",
            "priority_levels",
        )
    return {"priority_levels": levels} | ({"default_priority": default} if levels else {}), []


def _policy(text: Text, policy: pb.ModelQueuePolicy, field: str) -> _Found:
    """Return a queue policy as settings. Fields without a value are not given."""
    timeout_us, size = policy.default_timeout_microseconds, policy.max_queue_size
    for name, value, most in (
        ("default_timeout_microseconds", timeout_us, _MOST_WAIT_US),
        ("max_queue_size", size, _MOST_REQUESTS),
    ):
        if value > most:
            raise text.refused(
                f"dynamic_batching.{field}.{name} is {value}; at most {most} is allowed", "dynamic_batching", field
            )
    settings: dict[str, Any] = {}
    if size:
        settings["max_queue_requests"] = size
    if timeout_us:
        action = "delay" if policy.timeout_action == pb.ModelQueuePolicy.DELAY else "reject"
        settings |= {"queue_timeout_us": timeout_us, "queue_timeout_action": action}
        if policy.allow_timeout_override:
            settings["allow_timeout_override"] = True
    elif policy.allow_timeout_override:
        line = text.fields.line("dynamic_batching", field, "allow_timeout_override")
        return settings, [
            f"{place(line)}: dynamic_batching.{field}.allow_timeout_override has no effect without "
            "default_timeout_microseconds, which requests can only shorten"
        ]
    return settings, []


def _delay(text: Text) -> dict[str, Any]:
    batching = text.message.dynamic_batching
    delay_us = batching.max_queue_delay_microseconds
    if delay_us > _MOST_DELAY_US:
        raise text.refused(
            f"dynamic_batching.max_queue_delay_microseconds is {delay_us}; at most {_MOST_DELAY_US} (1 s) is allowed",
            "dynamic_batching",
            "max_queue_delay_microseconds",
        )
    return {"max_queue_delay_us": delay_us} if delay_us else {}


def _instances(text: Text) -> _Found:
    """Return the counts of instances, as a bound: how many batches at once are fastest is measured."""
    groups = text.message.instance_group
    count, remarks = 0, []
    for number, group in enumerate(groups):
        if group.count < 0:
            raise text.refused(f"instance_group has the count {group.count}", "instance_group", number=number)
        if group.kind == pb.ModelInstanceGroup.KIND_GPU and not has_gpu():
            line = text.fields.line("instance_group", number=number)
            remarks.append(f"{place(line)}: instance_group of KIND_GPU has no effect: no GPU is used here")
        else:
            # Triton's default is one.
            count += group.count or 1
    settings: dict[str, Any] = {"max_instances": min(count, _MOST_INSTANCES)} if count else {}
    if count and all(group.kind == pb.ModelInstanceGroup.KIND_GPU for group in groups):
        settings["provider"] = "cuda"
    return settings, remarks
