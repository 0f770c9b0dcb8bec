"""The rpc TraceSetting: reads and changes which requests are traced."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.errors import InvalidInput, ModelNotAllowed
from resonnx_server.inference.registry import Models
from resonnx_server.observe.tracing import Traces, TraceSettings
from resonnx_server.rpc.boundary import Context, counted

_log = logging.getLogger(__name__)

_MOST: Final = 2**31 - 1


class TraceSettingRpc:
    """TraceSetting.

    Args:
        traces: The traces of the server.
        models: The registry.
    """

    rpcs = ("TraceSetting",)

    def __init__(self, traces: Traces, models: Models) -> None:
        self._traces = traces
        self._models = models
        self.rejected = models.rejected
        self.extensions = ("trace",) if traces.are_possible else ()

    @counted
    async def TraceSetting(self, request: pb.TraceSettingRequest, context: Context) -> pb.TraceSettingResponse:  # noqa: N802
        """Change the given settings of a model, or of all if none is named, all or none; return those in force.

        A setting without a value becomes the default again, or for a model that of all models.

        Raises:
            InvalidInput: A setting is unknown, or its value is not permitted.
            NotSupported: Traces are switched on, and the server has no folder for them.
            NotFound: There is no such model.
        """
        model = request.model_name
        if model:
            if not context.caller.may_use(model):
                raise ModelNotAllowed(model)
            self._models.get(model)
        changes: dict[str, Any] = {}
        for name, value in request.settings.items():
            if name not in _SETTINGS:
                known = ", ".join(_SETTINGS)
                raise InvalidInput("settings", f"{name[:64]!r} is not a setting of traces; these are: {known}")
            attribute, read = _SETTINGS[name]
            changes[attribute] = read(value.value, f"settings[{name!r}]") if value.value else None
        if changes:
            self._traces.change(changes, model)
            fields = {"caller": context.caller.name, "model": model or "all", **changes}
            _log.info("settings of traces changed", extra=fields)
        return _response(self._traces.settings(model))


def _level(values: Sequence[str], field: str) -> bool:
    """Whether timestamps are traced."""
    given = {*values}
    if given == {"OFF"}:
        return False
    if given == {"TIMESTAMPS"}:
        return True
    if "TENSORS" in given:
        raise InvalidInput(field, "'TENSORS' is not possible: traces hold no contents of requests; use TIMESTAMPS")
    raise InvalidInput(field, f"{' '.join(values)[:64]!r} is neither OFF nor TIMESTAMPS")


def _integer(least: int) -> Callable[[Sequence[str], str], int]:
    """Return a function that reads an integer from `least` to 2^31 - 1."""

    def read(values: Sequence[str], field: str) -> int:
        text = _text(values, field)
        digits = text.removeprefix("-")
        if digits.isascii() and digits.isdigit() and len(digits) < 11 and least <= int(text) <= _MOST:
            return int(text)
        raise InvalidInput(field, f"{text[:64]!r} is not an integer within {least}..{_MOST}")

    return read


def _text(values: Sequence[str], field: str) -> str:
    if len(values) != 1:
        raise InvalidInput(field, f"{len(values)} values; give one")
    return values[0]


# By Triton's names, in its order: the attribute of TraceSettings, and what reads its values.
_SETTINGS: Final[dict[str, tuple[str, Callable[[Sequence[str], str], Any]]]] = {
    "trace_level": ("is_on", _level),
    "trace_rate": ("rate", _integer(1)),
    "trace_count": ("count", _integer(-1)),
    "log_frequency": ("log_frequency", _integer(0)),
    "trace_file": ("file", _text),
}


def _response(settings: TraceSettings) -> pb.TraceSettingResponse:
    response = pb.TraceSettingResponse()
    for name, (attribute, _) in _SETTINGS.items():
        value = getattr(settings, attribute)
        text = ("TIMESTAMPS" if value else "OFF") if attribute == "is_on" else str(value)
        response.settings[name].value.append(text)
    return response
