"""The limits of waiting that a model's settings give."""

from resonnx_server.config import ModelSettings, PriorityPolicy
from resonnx_server.scheduling.queue_policy import QueuePolicies, QueuePolicy
from resonnx_server.scheduling.sharing import DEFAULT_PRIORITY


def queue_policies(settings: ModelSettings) -> QueuePolicies | None:
    """Return the limits of waiting by priority; None if the settings have no such limits, nor names of priorities."""
    policies = QueuePolicies(
        settings.priority_levels,
        settings.default_priority or DEFAULT_PRIORITY,
        _policy(settings),
        {priority: _policy(policy) for priority, policy in settings.priority_policies.items()},
    )
    # Without a timeout, a request's own one is its deadline, and no matter of the queue.
    return None if policies == QueuePolicies(default=QueuePolicy()) else policies


def _policy(settings: ModelSettings | PriorityPolicy) -> QueuePolicy:
    return QueuePolicy(
        settings.queue_timeout_us * 1000,
        settings.queue_timeout_action == "delay",
        settings.allow_timeout_override and settings.queue_timeout_us > 0,
        settings.max_queue_requests,
    )
