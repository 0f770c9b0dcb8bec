"""The reference of all settings is that of the model which validates them."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field
from resonnx_server.config import ModelSettings, Settings
from resonnx_server.config_text import describe

_ROOT = Path(__file__).parents[3]
_REFERENCE = (_ROOT / "docs/settings.md").read_text()


def test_the_committed_reference_is_up_to_date() -> None:
    printed = subprocess.run(
        [sys.executable, "deploy/settings_reference.py"], cwd=_ROOT, capture_output=True, text=True, check=True
    )
    assert printed.stdout == _REFERENCE, "make settings"


@pytest.mark.parametrize("model", [Settings, ModelSettings])
def test_every_setting_is_there_and_says_what_it_does(model: type[BaseModel]) -> None:
    settings = {setting.name: setting for setting in describe(model)}
    assert settings.keys() == model.model_fields.keys() - {"models", "declaration"}
    for setting in settings.values():
        assert setting.text.endswith("."), setting.name
        # Whatever does not fit into a table's cell.
        assert not {"\n", "|"} & {*setting.text, *setting.values}, setting.name
        assert f"| `{setting.name}` | " in _REFERENCE


def test_values_and_defaults_in_words() -> None:
    class Some(BaseModel):
        exact: int = Field(3, ge=1, le=9)
        over: float | None = Field(None, gt=0, le=60_000)
        least: float = Field(0.5, ge=0.5)
        names: tuple[Literal["jpeg", "png", "gif"], ...] = ("jpeg", "png")
        folder: Path | None = None
        given: bool

    told = {setting.name: (setting.values, setting.default, setting.required) for setting in describe(Some)}
    assert told == {
        "exact": ("integer, 1 to 9", "3", False),
        "over": ("number, over 0, up to 60000", "", False),
        "least": ("number, at least 0.5", "0.5", False),
        "names": ("some of jpeg, png, gif", "jpeg, png", False),
        "folder": ("path", "", False),
        "given": ("true or false", "", True),
    }
