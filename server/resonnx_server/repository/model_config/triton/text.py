"""Parses the text of a config.pbtxt, and refuses fields that nobody knows or that cannot be served."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import text_format
from resonnx_proto.inference import model_config_pb2 as pb

from resonnx_server.config_text import nearest
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.model_config.triton.rules import IGNORED, REFUSED, TAKEN, rule
from resonnx_server.repository.model_config.triton.text_fields import Field, Path, TextFields, TooDeep, without

CONFIG_PBTXT: Final = "config.pbtxt"
# "12:5 : message", as text_format writes it.
_PLACE: Final = re.compile(r"(\d+):\d+ : (.*)", re.DOTALL)
# Characters of a line that an error shows.
_SHOWN: Final = 80


@dataclass(frozen=True)
class Text:
    """A parsed configuration.

    Attributes:
        message: Its known fields.
        fields: All of its fields.
        ignored: Fields without effect, each with its line and the reason.
    """

    message: pb.ModelConfig
    fields: TextFields
    ignored: tuple[str, ...]

    def refused(self, reason: str, *path: str, number: int = 0) -> ModelRefused:
        """Return the error of a field, with its line."""
        return ModelRefused(f"{place(self.fields.line(*path, number=number))}: {reason}")


def place(line: int) -> str:
    """Return the name of a line for messages; 0 is none."""
    return f"{CONFIG_PBTXT}, line {line}" if line else CONFIG_PBTXT


def parse(text: str) -> Text:
    """Parse a configuration.

    Raises:
        ModelRefused: It is not a text of a ModelConfig, or has a field that is unknown or cannot be served.
    """
    try:
        found = TextFields(text)
    except TooDeep:
        raise ModelRefused(f"{CONFIG_PBTXT}: its messages are nested too deeply") from None
    for each in found.fields:
        _check(each)
    # Our message lacks many of them.
    read = without(text, [span for span in found.spans if ".".join(span.path) in IGNORED])
    message = pb.ModelConfig()
    try:
        text_format.Parse(read, message)
    except text_format.ParseError as error:
        raise _not_parsed(text, str(error)) from None
    return Text(message, found, tuple(_ignored(found.fields)))


def _not_parsed(text: str, error: str) -> ModelRefused:
    found = _PLACE.fullmatch(error)
    if found is None:
        return ModelRefused(f"{CONFIG_PBTXT}: {error[:300]}")
    line, lines = int(found[1]), text.split("\n")
    shown = lines[line - 1] if line <= len(lines) else ""
    # Some errors begin with the line.
    reason = found[2].removeprefix(f"'{shown}': ").removeprefix("'': ")
    return ModelRefused(f"{place(line)}: {reason[:300]} (the line is: {shown.strip()[:_SHOWN]})")


def _check(field: Field) -> None:
    """Raise ModelRefused for a field that is unknown or cannot be served."""
    if (reason := rule(field.path, REFUSED)) is not None:
        raise ModelRefused(f"{place(field.line)}: {field.path[0]} is not supported: {reason}")
    if rule(field.path, IGNORED) is not None:
        return
    known = _names_beside(field.path)
    if field.path[-1] not in known:
        near = nearest(field.path[-1], known)
        hint = f"did you mean {near}?" if near else f"there are {', '.join(sorted(known))}"
        raise ModelRefused(f"{place(field.line)}: there is no field {'.'.join(field.path)}; {hint}")


def _names_beside(path: Path) -> set[str]:
    """Return the names that a field may have in its message."""
    if len(path) == 1:
        return {*TAKEN, *(name for name in (*IGNORED, *REFUSED) if "." not in name)}
    message: Any = pb.ModelConfig.DESCRIPTOR
    for name in path[:-1]:
        if message is None or name not in message.fields_by_name:
            return set()
        message = message.fields_by_name[name].message_type
    parent = ".".join(path[:-1])
    more = {name.rpartition(".")[2] for name in IGNORED if name.rpartition(".")[0] == parent}
    return {*(message.fields_by_name if message else ()), *more}


def _ignored(found: list[Field]) -> Iterator[str]:
    told: set[str] = set()
    for each in found:
        name = ".".join(each.path)
        if name in IGNORED and name not in told:
            told.add(name)
            yield f"{place(each.line)}: {name} has no effect: {IGNORED[name]}"
