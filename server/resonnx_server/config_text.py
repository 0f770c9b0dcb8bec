"""Describes settings, from the settings models, for --help, errors and docs/settings.md; and errors of settings."""

import ast
import difflib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

# Characters of a value that an error shows.
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Setting:
    """A field of a settings model.

    Attributes:
        name: The field's name and key in the TOML file.
        text: Its description.
        kind: Its type in JSON Schema, or "path".
        choices: Its values, if it is an enumeration.
        bounds: Its range in words, or "".
        default: As in TOML; "" if there is none.
        required: Whether it must be given.
    """

    name: str
    text: str
    kind: str
    choices: tuple[str, ...]
    bounds: str
    default: str
    required: bool

    @property
    def values(self) -> str:
        """The allowed values in words."""
        if self.choices:
            return ("some of " if self.kind == "array" else "") + ", ".join(self.choices)
        words = {"integer": "integer", "boolean": "true or false", "string": "text", "array": "list", "object": "table"}
        return ", ".join(filter(None, [words.get(self.kind, self.kind), self.bounds]))

    def __str__(self) -> str:
        default = f"; default {self.default}" if self.default else ""
        return f"{self.text} [{self.values}{default}]"


@cache
def describe(model: type[BaseModel]) -> tuple[Setting, ...]:
    """Return a settings model's fields in order, without nested sections."""
    schema, texts = model.model_json_schema(), _texts(sys.modules[model.__module__].__file__).get(model.__name__, {})
    required = schema.get("required", ())
    return tuple(
        _setting(name, texts.get(name, ""), field, name in required)
        for name, field in schema["properties"].items()
        # [models.NAME]
        if name != "models"
    )


@cache
def _texts(file: str | None) -> dict[str, dict[str, str]]:
    """Return the docstrings of fields by class of a module.

    Pydantic can tell them, too (use_attribute_docstrings), and takes a tenth of the server's start for it.
    """
    assert file is not None
    return {
        node.name: {
            field.target.id: text.value.value
            for field, text in pairwise(node.body)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
        }
        for node in ast.parse(Path(file).read_text()).body
        if isinstance(node, ast.ClassDef)
    }


def _setting(name: str, text: str, field: Mapping[str, Any], required: bool) -> Setting:
    # Of optional fields, the schema without null.
    form = next((form for form in field.get("anyOf", ()) if form.get("type") != "null"), field)
    kind = "path" if form.get("format") == "path" else form.get("type", "string")
    return Setting(
        name,
        " ".join(text.split()),
        kind,
        tuple(form.get("items", form).get("enum", ())),
        _bounds(form),
        _toml(field.get("default")),
        required,
    )


def _bounds(form: Mapping[str, Any]) -> str:
    least, over, most = (form.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    if least is not None and most is not None:
        return f"{_number(least)} to {_number(most)}"
    parts = [("at least", least), ("over", over), ("up to", most)]
    return ", ".join(f"{word} {_number(value)}" for word, value in parts if value is not None)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _toml(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case int() | float():
            return _number(value)
        case list() | tuple():
            return ", ".join(map(str, value))
    return str(value)


def split_list(value: object) -> object:
    """Return the parts of a comma-separated list; other values as they are."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is similar to `name`, if there is one."""
    return next(iter(difflib.get_close_matches(name, known, 1, 0.75)), None)


def fault(error: ErrorDetails, model: type[BaseModel], name: str) -> str:
    """Return the message for one invalid setting.

    Args:
        error: What pydantic says of it.
        model: The settings that it is one of.
        name: Its name as the user knows it: "models.digits.max_batch_size".
    """
    key, known = str(error["loc"][-1]), {setting.name: setting for setting in describe(model)}
    if error["type"] == "extra_forbidden" or error["loc"] == ("declaration",):
        near = nearest(key, known)
        hint = f"did you mean {near}? There are" if near else "there are"
        return f"setting {name}: there is no such setting; {hint} {', '.join(sorted(known))}"
    meant = known.get(key)
    given = repr(error["input"])
    shown = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}…"
    return f"setting {name}: {error['msg']} (it is {shown})" + (f". {meant}" if meant else "")
