"""Version policies: their texts and tables, and the versions that they choose."""

from typing import Any

import pytest
from pydantic import ValidationError
from resonnx_server.config import ModelSettings
from resonnx_server.version_policy import VersionPolicy, canonical


@pytest.mark.parametrize(
    ("given", "text", "chosen"),
    [
        ("latest: 1", "latest: 1", {9}),
        ("latest:2", "latest: 2", {5, 9}),
        ({"latest": 7}, "latest: 7", {2, 5, 9}),
        (" all ", "all", {2, 5, 9}),
        ({"all": True}, "all", {2, 5, 9}),
        ("specific: 5,2, 5", "specific: [2, 5]", {2, 5}),
        ("specific: [4]", "specific: [4]", set()),
        ({"specific": [9]}, "specific: [9]", {9}),
    ],
)
def test_a_policy_chooses_versions(given: Any, text: str, chosen: set[int]) -> None:
    assert canonical(given) == text
    assert canonical(text) == text
    assert VersionPolicy.parse(text).choose((9, 2, 5)) == chosen
    assert ModelSettings(version_policy=given).version_policy == text


@pytest.mark.parametrize(
    "given", ["", "latest", "latest: 0", "latest: -1", "specific: []", "specific: [0]", {"all": False}, 2, {}, None]
)
def test_other_policies_are_refused_with_the_forms_that_there_are(given: Any) -> None:
    with pytest.raises(ValidationError, match='is none of "latest: N"'):
        ModelSettings(version_policy=given)


@pytest.mark.parametrize("label", ["7", "", "a b", "é", "x" * 65])
def test_a_label_is_a_name_that_is_not_a_number(label: str) -> None:
    assert ModelSettings(labels={"canary": 4}).labels == {"canary": 4}
    with pytest.raises(ValidationError, match="is not a label"):
        ModelSettings(labels={label: 1})
    with pytest.raises(ValidationError):
        ModelSettings(labels={"stable": 0})
