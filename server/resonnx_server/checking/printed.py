"""Prints all settings with their sources, as a TOML file that gives the same settings: `--print-config`."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from resonnx_server.config import Settings
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.model_config.settings import sourced_settings
from resonnx_server.repository.scan import scan

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_DEFAULT: Final = "default"


def printed(settings: Settings, sources: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines: each setting of the server and of the models in its repository, and where it came from.

    Args:
        settings: The server's.
        sources: The source of each that is not a default, by name.
    """
    yield "[server]"
    yield from _section(settings, sources, {"models"})
    try:
        found = scan(settings.repository)
    except ModelRefused as refused:
        yield ""
        yield f"# {refused.message}"
        found = []
    folders = {each.name: settings.repository / each.name for each in found}
    for name in sorted(folders.keys() | settings.models.keys()):
        yield ""
        try:
            model = sourced_settings(settings.repository / name, name, settings)
        except ModelRefused as refused:
            yield f"# models.{name} is refused: {_comment(refused.message)}"
            continue
        yield f"[models.{_key(name)}]" + ("" if name in folders else "  # there is no such model in the repository")
        yield from _section(model.settings, model.sources, {"declaration"})


def _section(settings: BaseModel, sources: Mapping[str, str], without: set[str]) -> Iterator[str]:
    for name in type(settings).model_fields:
        if name in without:
            continue
        value, source = getattr(settings, name), _comment(sources.get(name, _DEFAULT))
        yield f"# {name} is not set  # {source}" if value is None else f"{name} = {_toml(value)}  # {source}"


def _toml(value: object) -> str:
    """Return a value in TOML."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case list() | tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case Mapping():
            return f"{{{', '.join(f'{_key(str(key))} = {_toml(each)}' for key, each in value.items())}}}"
        case BaseModel():
            return _toml(value.model_dump())
        case str() | Path():
            # JSON's strings are TOML's but for this character.
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    raise TypeError(f"{type(value)} has no form in TOML")


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _toml(name)


def _comment(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
