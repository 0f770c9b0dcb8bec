"""Reads config.toml, the settings in a model's folder."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from resonnx_server.config import ModelSettings
from resonnx_server.config_text import fault
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.files import NotReadable, read_regular

CONFIG_TOML: Final = "config.toml"
_MAX_BYTES: Final = 1 << 18


def read_config_toml(folder: Path) -> Mapping[str, Any]:
    """Return the settings that a model's config.toml gives, validated; none if there is no such file.

    The file holds the settings of [models.NAME] of the server's file, without a section:

        max_batch_size = 32
        latency_objective_ms = 50

    Raises:
        ModelRefused: It cannot be read or parsed, or a setting is unknown or out of range; names the line.
    """
    try:
        text = read_regular(folder / CONFIG_TOML, _MAX_BYTES).decode()
        content = tomllib.loads(text)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ModelRefused(f"{CONFIG_TOML} cannot be read: {error.strerror}") from None
    except NotReadable as error:
        raise ModelRefused(f"{CONFIG_TOML} {error}") from None
    except UnicodeDecodeError as error:
        raise ModelRefused(f"{CONFIG_TOML} is not UTF-8: byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ModelRefused(f"{CONFIG_TOML} is not TOML: {error}") from None
    try:
        return ModelSettings.model_validate(content).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ModelRefused(f"{CONFIG_TOML}{line_of(text, name)}: {fault(first, ModelSettings, name)}") from None


def line_of(text: str, key: str) -> str:
    """Return ", line N" where the first part of a key is set at the top of a TOML text, or "" if it is not found."""
    first = re.escape(key.split(".")[0])
    pattern = re.compile(rf"""\s*(\[\s*)?["']?{first}["']?\s*[.=\]]""")
    found = (number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line))
    number = next(found, None)
    return "" if number is None else f", line {number}"
