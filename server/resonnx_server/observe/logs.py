"""JSON logs on stderr: one object a line, `extra=` fields beside the message; which lines are logged; other output."""

import json
import logging
import sys
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

from resonnx_server.observe.output import Output
from resonnx_server.observe.requests.identity import IDENTITY
from resonnx_server.observe.trace_context import TRACE_CONTEXT

_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_MAX_VALUE: Final = 512
_SERVER: Final = logging.getLogger("resonnx_server")
# Level of loggers that log nothing.
_NONE: Final = logging.CRITICAL + 1
_NAME: Final = "resonnx-server"
# json.dumps would make an encoder for each line.
_to_json: Final = json.JSONEncoder(default=repr).encode
_STDERR: Final = 2
# For the last lines, at the process's end.
_LAST_S: Final = 1.0


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
    """Lets lines of the levels in force pass, and names the request that a line is of.

    Attributes:
        levels: The levels in force.
    """

    def __init__(self) -> None:
        super().__init__()
        self.levels = Levels()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is logged; one of a task that serves a request gets its id."""
        if not self.levels.logs(record.levelno):
            return False
        if (identity := IDENTITY.get()) is not None and not hasattr(record, "request_id"):
            record.request_id = identity.id
            if (context := TRACE_CONTEXT.get()) is not None:
                record.trace_id = context.trace_id
        return True

    def change(self, **levels: Any) -> None:
        """Set attributes of the levels in force; the others stay."""
        self.levels = replace(self.levels, **levels)
        # Lines that no filter lets pass are not made at all.
        logging.getLogger().setLevel(self.levels.lowest)
        _SERVER.setLevel(logging.DEBUG if self.levels.verbose else logging.NOTSET)


# As logging's state, it is the process's.
control: Final = LogControl()


def json_line(created: float, level: str, logger: str, message: str, fields: Mapping[str, Any], **whole: str) -> str:
    """Return a line of the log.

    Args:
        created: POSIX seconds.
        level: Its level, in lower case.
        logger: The logger's name.
        message: What is told.
        fields: Further fields, of which long texts are truncated.
        **whole: Further ones that are not.
    """
    entry = {
        "time": datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds"),
        "level": level,
        "logger": logger,
        "message": message,
    }
    for name, value in fields.items():
        entry[name] = value[:_MAX_VALUE] if isinstance(value, str) else value
    return _to_json({**entry, **whole})


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object. Long values are truncated, so that callers cannot flood the log."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line."""
        fields = {k: v for k, v in vars(record).items() if k not in _PLAIN}
        level, message = record.levelname.lower(), record.getMessage()
        if not record.exc_info:
            return json_line(record.created, level, record.name, message, fields)
        # Not truncated: its end is what matters.
        return json_line(
            record.created, level, record.name, message, fields, exception=self.formatException(record.exc_info)
        )


def _line(level: int, message: str, fields: Mapping[str, Any]) -> str:
    about = {"name": _SERVER.name, "levelno": level, "levelname": logging.getLevelName(level), "msg": message}
    return JsonFormatter().format(logging.makeLogRecord({**about, **fields}))


def _of_dropped(count: int) -> str:
    return _line(logging.WARNING, "lines were dropped, as stderr was not read", {"dropped": count}) + "\n"


# As logging's state, it is the process's.
output: Final = Output(_of_dropped)


class _LineHandler(logging.Handler):
    """Gives lines to the output."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            output.put(self.format(record) + "\n")
        except Exception:  # no request may fail for its line
            self.handleError(record)

    def flush(self) -> None:
        """Give the last lines some time; called at the process's end."""
        output.flush(_LAST_S)


class Console:
    """What the process says beside its log.

    Attributes:
        is_json: Lines are JSON objects, as those of the log, and not plain text.
    """

    is_json = False

    def ready(self, addresses: Mapping[str, str], *, is_ready: bool) -> None:
        """Print the line that supervisors wait for, on stdout: whether the server is ready, and its addresses."""
        state = "ready" if is_ready else "not ready"
        listed = " ".join(f"{name}={address}" for name, address in addresses.items())
        text = (
            _line(logging.INFO, state, {"ready": is_ready, **addresses})
            if self.is_json
            else f"{_NAME} {state} {listed}"
        )
        print(text, flush=True)

    def tell(self, level: int, message: str) -> None:
        """Print on stderr, at any level of the log: why the server cannot start, or what it ignores."""
        text = _line(level, message, {}) if self.is_json else f"{_NAME}: {message}"
        if output.is_begun:
            output.put(text + "\n")
        else:
            print(text, file=sys.stderr, flush=True)

    def progress(self, message: str) -> bool:
        """Print a line of progress if stderr is a terminal; whether it was."""
        if self.is_json or not sys.stderr.isatty():
            return False
        print(f"{_NAME}: {message}", file=sys.stderr, flush=True)
        return True


# As logging's state, it is the process's.
console: Final = Console()


def configure(level: str) -> None:
    """Send logs of `level` and above to stderr; ignore Pillow's warnings about callers' pictures.

    If all output is to be JSON, Python's warnings and uncaught errors become lines of the log.
    """
    # Python remembers every distinct warning for ever, and damaged pictures make any number.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # A process may be started without it: another file has its number then.
    if sys.stderr is not None and not output.is_begun:
        output.begin(_STDERR)
    handler = _LineHandler()
    handler.setFormatter(JsonFormatter())
    handler.addFilter(control)
    logging.basicConfig(handlers=[handler], force=True)
    control.change(**vars(_LEVELS[level]))
    if console.is_json:
        _log_what_python_prints()


def _log_what_python_prints() -> None:
    logging.captureWarnings(capture=True)
    # Otherwise a line that cannot be written leaves a plain traceback.
    logging.raiseExceptions = False

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _SERVER.critical("the server ends by an error", exc_info=(kind, error, trace))

    def uncaught_in_thread(given: threading.ExceptHookArgs) -> None:
        if given.exc_value is not None:
            name = None if given.thread is None else given.thread.name
            _SERVER.error("a thread ended by an error", exc_info=given.exc_value, extra={"of_thread": name})

    def unraisable(given: Any) -> None:
        _SERVER.error("an error could not be raised", exc_info=given.exc_value, extra={"in": repr(given.object)})

    sys.excepthook, threading.excepthook, sys.unraisablehook = uncaught, uncaught_in_thread, unraisable
