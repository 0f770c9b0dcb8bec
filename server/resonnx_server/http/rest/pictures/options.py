"""Options of a picture's or clip's request in the query: the fields of the task API's message."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from multidict import MultiMapping

from resonnx_server.errors import InvalidInput

M = TypeVar("M", bound=Message)

# What the path and the body say.
_NOT_OPTIONS: Final = ("model", "image", "frames", "clip", "version_label")
_FLAGS: Final[Mapping[str, bool]] = {"true": True, "1": True, "": True, "false": False, "0": False}
_WHOLE: Final[Mapping[int, tuple[int, int]]] = {
    FieldDescriptor.TYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.TYPE_UINT64: (0, (1 << 64) - 1),
    FieldDescriptor.TYPE_INT64: (0, (1 << 63) - 1),
}
_LONGEST_NUMBER: Final = 32
_LONGEST_ID: Final = 256


def message_of(kind: type[M], model: str, query: MultiMapping[str], others: Collection[str] = ()) -> M:
    """Return a request without its picture or clip.

    Args:
        kind: ClassifyRequest, CaptionRequest or ClassifyVideoRequest.
        model: The model's name.
        query: The options. `version` is a number or a label; words are divided by blanks.
        others: Names of options that are no fields of the message, which others read.

    Raises:
        InvalidInput: An option is not known, given twice, or not of its type.
    """
    message = kind(model=model)
    fields = {name: field for name, field in kind.DESCRIPTOR.fields_by_name.items() if name not in _NOT_OPTIONS}
    for name in query:
        if name in others:
            continue
        field = fields.get(name)
        if field is None:
            raise InvalidInput(name[:64], f"is not one of the options {', '.join((*sorted(fields), *others))}")
        values = query.getall(name)
        if field.is_repeated:
            getattr(message, name)[:] = [word for value in values for word in value.split()]
        elif len(values) > 1:
            raise InvalidInput(name, "is given more than once")
        elif name == "version" and not values[0].isdecimal():
            message.version_label = values[0]  # type: ignore[attr-defined]  # all kinds have it
        else:
            setattr(message, name, _value(field, name, values[0]))
    return message


def times_of(query: MultiMapping[str], name: str) -> list[float]:
    """Return the numbers of an option, divided by commas or blanks; none without it.

    Raises:
        InvalidInput: One is no number.
    """
    times = []
    for text in " ".join(query.getall(name, ())).replace(",", " ").split():
        try:
            times.append(float(text))
        except ValueError:
            raise InvalidInput(f"{name}[{len(times)}]", f"{text[:_LONGEST_NUMBER]!r} is not a number") from None
    return times


def _value(field: Any, name: str, text: str) -> Any:
    if field.type == FieldDescriptor.TYPE_BOOL:
        if text not in _FLAGS:
            raise InvalidInput(name, f"{text[:32]!r} is not true or false")
        return _FLAGS[text]
    if field.type == FieldDescriptor.TYPE_ENUM:
        return _number_of(field, name, text)
    if field.type == FieldDescriptor.TYPE_STRING:
        if len(text.encode()) > _LONGEST_ID:
            raise InvalidInput(name, f"more than {_LONGEST_ID} bytes. Send a shorter one")
        return text
    try:
        if len(text) > _LONGEST_NUMBER:
            raise ValueError(text)
        if field.type == FieldDescriptor.TYPE_FLOAT:
            return float(text)
        number, (least, most) = int(text), _WHOLE[field.type]
    except ValueError:
        raise InvalidInput(name, f"{text[:_LONGEST_NUMBER]!r} is not a number") from None
    if not least <= number <= most:
        raise InvalidInput(name, f"{number} is not within {least}..{most}")
    return number


def _number_of(field: Any, name: str, text: str) -> int:
    """Return the number of an enum's value, by its name without the enum's."""
    known = dict(_choices(field.enum_type.values))
    if text.lower() not in known:
        raise InvalidInput(name, f"{text[:32]!r} is not one of {', '.join(known)}")
    return known[text.lower()]


def _choices(values: Sequence[Any]) -> Iterator[tuple[str, int]]:
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    for value in values[1:]:
        yield value.name.removeprefix(prefix).lower(), value.number
