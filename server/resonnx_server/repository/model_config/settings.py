"""Merges the settings of one model: the server's file goes before config.toml, and that before config.pbtxt."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from resonnx_server.config import ModelSettings, Settings
from resonnx_server.config_text import fault
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.model_config.toml_file import CONFIG_TOML, read_config_toml
from resonnx_server.repository.model_config.triton.configuration import Configuration, read_config_pbtxt
from resonnx_server.repository.model_config.triton.text import CONFIG_PBTXT


@dataclass(frozen=True)
class SourcedSettings:
    """A model's settings, and for each that is not a default the source: "config.toml"."""

    settings: ModelSettings
    sources: Mapping[str, str]


def settings_of(folder: Path, name: str, server: Settings) -> ModelSettings:
    """Return the settings of the model `name`; reads its files again at each call.

    Args:
        folder: The model's folder, which holds its versions.
        name: The model's name.
        server: The server's settings.

    Raises:
        ModelRefused: A file in the folder cannot be read, or gives a setting that cannot be used, or is there although
            the server has trusted keys.
    """
    return sourced_settings(folder, name, server).settings


def sourced_settings(folder: Path, name: str, server: Settings) -> SourcedSettings:
    """Return the settings of the model `name` with their sources. Arguments and errors are those of settings_of."""
    for file in (CONFIG_TOML, CONFIG_PBTXT):
        if server.trusted_keys and (folder / file).exists():
            raise ModelRefused(
                f"{file} in the model's folder is not signed, and trusted_keys is set: give its settings in "
                f"[models.{name}] of the server's file, and delete it"
            )
    triton = read_config_pbtxt(folder, name)
    own = server.models.get(name)
    declared = dict(triton.settings) if triton else {}
    if server.provider != "auto":
        # Who runs the server knows its devices.
        declared.pop("provider", None)
    found: list[tuple[str, Mapping[str, Any]]] = [
        (CONFIG_PBTXT, declared),
        (CONFIG_TOML, read_config_toml(folder)),
        (f"[models.{name}]", own.model_dump(exclude_unset=True) if own else {}),
    ]
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, given in found:
        values |= given
        sources |= dict.fromkeys(given, source)
    if values.get("provider") is None:
        values["provider"], sources["provider"] = server.provider, "the server's provider"
    if triton is not None:
        _check_batch_axis(triton, values, sources)
        values["declaration"] = triton.declaration
    try:
        return SourcedSettings(ModelSettings.model_validate(values), sources)
    except ValidationError as error:
        # The other files' settings were validated before.
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ModelRefused(f"{CONFIG_PBTXT}: {fault(first, ModelSettings, name)}") from None


def _check_batch_axis(triton: Configuration, values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Raise ModelRefused if another file gives a model the batch axis that config.pbtxt has not, or takes it away."""
    declared, given = triton.settings.get("max_batch_size", 1), values.get("max_batch_size", 1)
    if (triton.declaration.inputs or triton.declaration.outputs) and (declared > 0) != (given > 0):
        meaning = "1 is no batches as well" if given == 0 else "with 0, its dims hold the batch axis"
        raise ModelRefused(
            f"{sources['max_batch_size']}: max_batch_size is {given}, and {CONFIG_PBTXT} says {declared}: {meaning}; "
            f"change {CONFIG_PBTXT} and its dims, or this value"
        )
