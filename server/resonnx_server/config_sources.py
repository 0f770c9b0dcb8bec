"""Loads settings: flags override RESONNX_* variables, variables the TOML file, and the file the defaults.

[server]
repository = "models"
port = 8001

[models.digits]
max_batch_size = 32
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from resonnx_server.config import ModelSettings, Settings
from resonnx_server.config_text import fault, nearest

_PREFIX = "RESONNX_"
# Variables of the client and of the compose file.
_OTHERS_VARIABLES = frozenset({"RESONNX_SERVER", "RESONNX_KEY", "RESONNX_BIND"})
# Kubernetes' documentation, "Service: Discovering services".
_KUBERNETES = re.compile(r"RESONNX_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")


class ConfigError(Exception):
    """An invalid setting; the message names it."""


def load_settings(flags: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Merge flags, variables and the TOML file named by `config` or RESONNX_CONFIG, and validate the result.

    Args:
        flags: Values by setting's name, as text or of the setting's type; None for flags that were not given.
        environment: Environment variables; only RESONNX_* are read.

    Raises:
        ConfigError: A value is out of range, a key is unknown, a variable is misspelt, or the file cannot be read.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    foreign_variables(environment)
    variables = _variables(environment)
    path = given.pop("config", None) or variables.get("config")

    class Sources(BaseSettings, Settings):
        # Do not parse variables as JSON.
        model_config = SettingsConfigDict(enable_decoding=False)

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: object, **__: object
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            sources: list[PydanticBaseSettingsSource] = [
                InitSettingsSource(settings_cls, given),
                _Variables(settings_cls, {name: variables[name] for name in variables.keys() & _named()}),
            ]
            return (*sources, _File(settings_cls, path)) if path else tuple(sources)

    try:
        return Sources()  # type: ignore[call-arg]  # the sources have the arguments
    except ValidationError as error:
        raise ConfigError(_message(error.errors()[0])) from None


def setting_sources(flags: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, str]:
    """Return where each of the server's settings comes from, without defaults: {"port": "flag --port"}.

    Args:
        flags: As those that load_settings has accepted.
        environment: Likewise.
    """
    variables = _variables(environment)
    path = flags.get("config") or variables.get("config")
    sources: dict[str, str] = {}
    if path:
        content = _flat(tomllib.loads(Path(path).read_text()), Path(path))
        sources |= dict.fromkeys(content.keys() - {"models"}, f"file {path}")
    sources |= {name: f"variable {_variable(name)}" for name in variables.keys() & _named()}
    sources |= {name: f"flag --{name.replace('_', '-')}" for name, value in flags.items() if value is not None}
    return {name: source for name, source in sources.items() if name in Settings.model_fields}


def given_text(name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """Return what is given for a setting, before anything is checked; None if nothing is, or it cannot be read."""

    def given(name: str) -> str | None:
        flag = f"--{name.replace('_', '-')}"
        values = [after for before, after in pairwise(arguments) if before == flag]
        values += [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{flag}=")]
        return values[-1] if values else environment.get(_variable(name))

    if (value := given(name)) or not (path := given("config")):
        return value
    try:
        return str(tomllib.loads(Path(path).read_text())["server"][name])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def foreign_variables(environment: Mapping[str, str]) -> list[str]:
    """Return RESONNX_* variables that are no settings: another version's, or another program's.

    Raises:
        ConfigError: A variable looks like a misspelt setting.
    """
    foreign = sorted(_variables(environment).keys() - _named())
    for name in foreign:
        if near := nearest(name, _named()):
            raise ConfigError(f"variable {_variable(name)}: there is no such setting; did you mean {_variable(near)}?")
    return [_variable(name) for name in foreign]


class _Variables(EnvSettingsSource):
    """Settings from the given variables, not from the process's."""

    def __init__(self, settings_cls: type[BaseSettings], variables: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self.env_vars = variables


class _File(TomlConfigSettingsSource):
    """Settings from [server] and [models.NAME] of a TOML file."""

    def __init__(self, settings_cls: type[BaseSettings], path: str | Path) -> None:
        # pydantic-settings ignores missing files.
        if not Path(path).exists():
            raise ConfigError(f"config file {path}: there is no such file")
        super().__init__(settings_cls, path)

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        try:
            content = super()._read_file(file_path)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"config file {file_path}: {error}") from None
        return _flat(content, file_path)


def _flat(content: dict[str, Any], path: Path) -> dict[str, Any]:
    if unknown := sorted(content.keys() - {"server", "models"}):
        raise ConfigError(f"config file {path}: unknown section [{unknown[0]}]; known are [server] and [models.NAME]")
    server, models = content.get("server", {}), content.get("models", {})
    sections = {"server": server, "models": models}
    if isinstance(models, dict):
        sections |= {f"models.{name}": settings for name, settings in models.items()}
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise ConfigError(f"config file {path}: {name} must be a section, [{name}] (it is {section!r})")
    if "models" in server:
        raise ConfigError(f"config file {path}: models belong in sections [models.NAME], not in [server]")
    return {**server, "models": models}


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the values of our non-empty variables by setting's name."""
    return {
        name.removeprefix(_PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(_PREFIX) and value and name not in _OTHERS_VARIABLES and not _is_kubernetes(name, value)
    }


def _is_kubernetes(name: str, value: str) -> bool:
    """Return whether Kubernetes sets the variable for a service named resonnx or resonnx-*."""
    return value.startswith("tcp://") or _KUBERNETES.fullmatch(name) is not None


def _variable(name: str) -> str:
    return _PREFIX + name.upper()


def _named() -> set[str]:
    """Return the names that flags and variables may have."""
    return {*Settings.model_fields, "config"} - {"models"}


def _message(error: ErrorDetails) -> str:
    """Return the message for one invalid setting."""
    if not error["loc"]:
        # Two settings contradict each other; the validator names them.
        return str(error["ctx"]["error"])
    *section, key = map(str, error["loc"])
    model: type[BaseModel] = ModelSettings if section[:1] == ["models"] else Settings
    name = ".".join([*section, key])
    if error["type"] == "missing":
        return f"setting {name}: give --{name}, {_variable(name)}, or {name} in [server] of the --config file"
    return fault(error, model, name)
