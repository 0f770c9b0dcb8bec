"""JSON logs on stderr: one object a line, `extra=` fields beside the message; and which lines are logged."""

import json
import logging
import sys
import warnings
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_MAX_VALUE: Final = 512
_SERVER: Final = logging.getLogger("resonnx_server")
# Level of loggers that log nothing.
_NONE: Final = logging.CRITICAL + 1


@dataclass(frozen=True)
class Levels:
    """Which lines are logged.

    Attributes:
        info: Lines of the level `info`.
        warning: Lines of the level `warning`.
        error: Lines of the level `error`.
        verbose: 0 for no lines of the level `debug`, 1 for the server's, 2 and more for those of libraries as well.
    """

    info: bool = True
    warning: bool = True
    error: bool = True
    verbose: int = 0

    @property
    def lowest(self) -> int:
        """The lowest level that is logged, whichever logger has it."""
        if self.verbose > 1:
            return logging.DEBUG
        levels = ((self.info, logging.INFO), (self.warning, logging.WARNING), (self.error, logging.ERROR))
        return next((level for logged, level in levels if logged), _NONE)

    def logs(self, level: int) -> bool:
        """Whether lines of a level are logged, if their logger's level allows it."""
        if level < logging.INFO:
            return self.verbose > 0
        return self.info if level < logging.WARNING else self.warning if level < logging.ERROR else self.error


_LEVELS: Final = {
    "debug": Levels(verbose=2),
    "info": Levels(),
    "warning": Levels(info=False),
    "error": Levels(info=False, warning=False),
}


class LogControl(logging.Filter):
    """Lets lines of the levels in force pass.

    Attributes:
        levels: The levels in force.
    """

    def __init__(self) -> None:
        super().__init__()
        self.levels = Levels()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is logged."""
        return self.levels.logs(record.levelno)

    def change(self, **levels: Any) -> None:
        """Set attributes of the levels in force; the others stay."""
        self.levels = replace(self.levels, **levels)
        # Lines that no filter lets pass are not made at all.
        logging.getLogger().setLevel(self.levels.lowest)
        _SERVER.setLevel(logging.DEBUG if self.levels.verbose else logging.NOTSET)


# As logging's state, it is the process's.
control: Final = LogControl()


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
    handler.addFilter(control)
    logging.basicConfig(handlers=[handler], force=True)
    control.change(**vars(_LEVELS[level]))


def _cut(value: Any) -> Any:
    return value[:_MAX_VALUE] if isinstance(value, str) else value
