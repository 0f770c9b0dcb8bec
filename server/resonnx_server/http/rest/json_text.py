"""JSON of answers."""

import json
from typing import Any, Final

# Headers of an answer. KServe's client compares the type as it is, so it has no parameters.
JSON: Final = {"Content-Type": "application/json"}


def to_json(value: Any) -> bytes:
    """Return a value as JSON in UTF-8, in one line without blanks."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
