"""Merges the settings of one model: the server's file goes before config.toml in the model's folder."""

from pathlib import Path

from resonnx_server.config import ModelSettings, Settings
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.model_config.toml_file import CONFIG_TOML, read_config_toml


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
    if server.trusted_keys and (folder / CONFIG_TOML).exists():
        raise ModelRefused(
            f"{CONFIG_TOML} in the model's folder is not signed, and trusted_keys is set: give its settings in "
            f"[models.{name}] of the server's file, and delete it"
        )
    values = {**read_config_toml(folder)}
    if (own := server.models.get(name)) is not None:
        values |= own.model_dump(exclude_unset=True)
    values["provider"] = values.get("provider") or server.provider
    return ModelSettings.model_validate(values)
