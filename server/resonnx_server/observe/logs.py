"""JSON logs on stderr: one object a line, `extra=` fields beside the message."""

import json
import logging
import sys
import warnings
from datetime import UTC, datetime
from typing import Any, Final

_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_MAX_VALUE: Final = 512


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object. Long values are truncated, so that callers cannot flood the log."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update({k: _cut(v) for k, v in vars(record).items() if k not in _PLAIN})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=repr)


def configure(level: str) -> None:
    """Send logs of `level` and above to stderr; ignore Pillow's warnings about callers' pictures."""
    # Python remembers every distinct warning for ever, and damaged pictures make any number.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _cut(value: Any) -> Any:
    return value[:_MAX_VALUE] if isinstance(value, str) else value
