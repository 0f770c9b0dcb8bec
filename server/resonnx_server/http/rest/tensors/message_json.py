"""Messages in JSON as Triton writes them: fields by their names in the .proto file, 64-bit integers as numbers."""

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message


def as_json(message: Message) -> dict[str, Any]:
    """Return a message's fields. Those without a value are left out if they are messages or have presence."""
    fields: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value, one = getattr(message, field.name), _writer(field)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            one = _writer(field.message_type.fields_by_name["value"])
            fields[field.name] = {str(key): one(each) for key, each in value.items()}
        elif field.is_repeated:
            fields[field.name] = [one(each) for each in value]
        elif not field.has_presence or message.HasField(field.name):
            fields[field.name] = one(value)
    return fields


def _writer(field: Any) -> Callable[[Any], Any]:
    """Return what writes one value of a field, given its descriptor."""
    if field.message_type is not None:
        return as_json
    if field.enum_type is not None:
        names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
        return lambda number: names.get(number, number)
    return lambda value: value
