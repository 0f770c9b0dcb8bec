"""Settings of logs, as Triton's extension has them, whichever interface they come through."""

import logging
from typing import Any, Final

from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.access.caller import Caller
from resonnx_server.errors import InvalidInput
from resonnx_server.observe.logs import LogControl

_log = logging.getLogger(__name__)

# By the protocol's name: the attribute of logs.Levels, and the kind of its value.
_LEVELS: Final = {
    "log_info": ("info", "bool_param"),
    "log_warning": ("warning", "bool_param"),
    "log_error": ("error", "bool_param"),
    "log_verbose_level": ("verbose", "uint32_param"),
}
_KINDS: Final = {"bool_param": "a bool", "uint32_param": "an integer, at least 0", "string_param": "a string"}
# Settings that cannot be changed: their values, and the reason.
_FIXED: Final = {
    "log_file": ("", "lines go to stderr"),
    "log_format": ("ISO8601", "lines are JSON with times of ISO 8601"),
}


def change(control: LogControl, request: pb.LogSettingsRequest, caller: Caller) -> pb.LogSettingsResponse:
    """Change the given settings, all or none, and return all.

    `log_file` and `log_format` may be given with their present values only.

    Args:
        control: The levels of the process.
        request: The changes.
        caller: Who asks, for the log.

    Raises:
        InvalidInput: A setting is unknown, or its value is not permitted.
    """
    changes: dict[str, Any] = {}
    for name, value in request.settings.items():
        if name in _LEVELS:
            attribute, kind = _LEVELS[name]
            changes[attribute] = _value(name, value, kind)
        elif name in _FIXED:
            present, reason = _FIXED[name]
            if (given := _value(name, value, "string_param")) != present:
                raise InvalidInput(_field(name), f"{given[:64]!r} is not possible: {reason}, so it is {present!r}")
        else:
            known = ", ".join((*_LEVELS, *_FIXED))
            raise InvalidInput("settings", f"{name[:64]!r} is not a setting of logs; these are: {known}")
    if changes:
        # Before they are in force: they may end this line too.
        _log.warning("settings of logs change", extra={"caller": caller.name, **changes})
        control.change(**changes)
    response = pb.LogSettingsResponse()
    for name, (attribute, kind) in _LEVELS.items():
        setattr(response.settings[name], kind, getattr(control.levels, attribute))
    for name, (present, _) in _FIXED.items():
        response.settings[name].string_param = present
    return response


def _value(name: str, value: pb.LogSettingsRequest.SettingValue, kind: str) -> Any:
    if value.WhichOneof("parameter_choice") != kind:
        raise InvalidInput(_field(name), f"must be {_KINDS[kind]} ({kind})")
    return getattr(value, kind)


def _field(name: str) -> str:
    return f"settings[{name!r}]"
