"""The budget is divided so that requests always find memory, and large pictures where there is enough."""

from pathlib import Path

import pytest
from resonnx_server.config import Settings
from resonnx_server.config_sources import ConfigError, load_settings
from resonnx_server.memory.division import default_budget, divide
from resonnx_server.parts import Parts

MB = 1 << 20


def test_a_large_budget_has_room_for_the_largest_picture_beside_eight_messages() -> None:
    division = divide(4096 * MB, most=1200 * MB, alone=1200 * MB, threads=4, max_message_bytes=64 * MB)
    assert (division.large, division.small, division.largest) == (1200 * MB, 16 * MB, 1200 * MB)
    assert division.decoder == 1264 * MB


def test_a_small_budget_is_halved() -> None:
    division = divide(256 * MB, most=1200 * MB, alone=1200 * MB, threads=8, max_message_bytes=64 * MB)
    assert division.decoder == 128 * MB
    assert division.large == division.largest == 96 * MB
    assert 8 * division.small + division.large == division.decoder


def test_a_picture_may_take_more_than_others_together_if_it_is_alone() -> None:
    division = divide(4096 * MB, most=16 * MB, alone=300 * MB, threads=1, max_message_bytes=64 * MB)
    assert (division.large, division.largest) == (16 * MB, 300 * MB)


def test_the_default_is_half_of_the_memory_and_some_messages_at_least() -> None:
    assert default_budget(4096 * MB, 64 * MB) == 2048 * MB
    assert default_budget(128 * MB, 64 * MB) == 256 * MB


def test_a_budget_that_holds_too_few_messages_is_an_error() -> None:
    given = {"repository": "models", "memory_budget_bytes": str(200 * MB)}
    with pytest.raises(ConfigError, match=r"memory_budget_bytes: 209715200 is less than 268435456"):
        load_settings(given, {})


def test_the_server_uses_its_setting(tmp_path: Path) -> None:
    parts = Parts.of(Settings(repository=tmp_path, cache_dir=Path("none"), memory_budget_bytes=300 * MB))
    assert parts.budget.max_bytes == 300 * MB
    assert parts.budget.most == 150 * MB
    assert parts.decoder.max_bytes < 150 * MB
