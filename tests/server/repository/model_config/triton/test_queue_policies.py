"""Queue policies and priorities of a config.pbtxt."""

from pathlib import Path

import pytest
from resonnx_server.config import ModelSettings
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.model_config.policies import queue_policies
from resonnx_server.scheduling.queue_policy import QueuePolicies, QueuePolicy

from .declared import declared_by, settings_in

POLICY = """\
dynamic_batching {
  priority_levels: 3
  default_priority_level: 2
  default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 1000 max_queue_size: 16 }
  priority_queue_policy { key: 1 value { default_timeout_microseconds: 500 allow_timeout_override: true } }
}
"""


def test_queue_policies_are_taken(tmp_path: Path) -> None:
    policies = queue_policies(settings_in(tmp_path, POLICY))
    assert policies == QueuePolicies(
        3, 2, QueuePolicy(1_000_000, delays=True, max_requests=16), {1: QueuePolicy(500_000, False, True)}
    )


def test_without_priority_levels_priorities_are_ignored(tmp_path: Path) -> None:
    """As in Triton, where a request may name any."""
    policies = queue_policies(settings_in(tmp_path, "max_batch_size: 8"))
    assert policies is not None
    assert [policies.priority(asked, 1) for asked in (0, 1, 100)] == [4, 4, 4]
    assert queue_policies(ModelSettings()) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("priority_levels: 9 default_priority_level: 1", "priority_levels is 9; at most 8 are served"),
        ("priority_levels: 2", "default_priority_level is 0; it must be 1 to priority_levels, 2"),
        ("priority_levels: 2 default_priority_level: 3", "default_priority_level is 3; it must be 1 to"),
        (
            "priority_queue_policy { key: 1 value { } }",
            "has the priority 1; priority_levels is 0",
        ),
        (
            "default_queue_policy { default_timeout_microseconds: 86400000001 }",
            "default_queue_policy.default_timeout_microseconds is 86400000001; at most 86400000000 is allowed",
        ),
        ("default_queue_policy { max_queue_size: 1000001 }", "max_queue_size is 1000001; at most 1000000 is allowed"),
    ],
)
def test_queue_policies_that_cannot_be_served_refuse_the_model(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ModelRefused) as refused:
        settings_in(tmp_path, f"dynamic_batching {{ {text} }}")
    assert reason in refused.value.message


def test_an_override_of_no_timeout_has_no_effect(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, "dynamic_batching {\n default_queue_policy { allow_timeout_override: true } }")
    assert not settings.allow_timeout_override
    (ignored,) = declared_by(settings).ignored
    assert ignored.startswith("config.pbtxt, line 2: dynamic_batching.default_queue_policy.allow_timeout_override ")
