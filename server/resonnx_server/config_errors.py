"""Messages for settings that cannot be used."""

import difflib
from collections.abc import Iterable

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from resonnx_server.config_text import describe

# Characters of a value that a message shows.
_SHOWN = 200


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
    key = str(error["loc"][-1])
    if error["type"] == "extra_forbidden":
        near = nearest(key, model.model_fields)
        hint = f"did you mean {near}? There are" if near else "there are"
        return f"setting {name}: there is no such setting; {hint} {', '.join(sorted(model.model_fields))}"
    meant = next((setting for setting in describe(model) if setting.name == key), None)
    given = repr(error["input"])
    shown = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}…"
    return f"setting {name}: {error['msg']} (it is {shown})" + (f". {meant}" if meant else "")
