"""The page of Triton's extension `logging`: which lines are logged, read and changed."""

import json
from typing import Any, Final

from aiohttp import web
from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.access.caller import Role
from resonnx_server.errors import InvalidInput, UnreadableMessage
from resonnx_server.http.guard import CALLER
from resonnx_server.http.pages import Page
from resonnx_server.http.rest.exchange import Content, Exchange, Posted
from resonnx_server.http.rest.failures import json_response
from resonnx_server.http.rest.json_text import JSON, to_json
from resonnx_server.inference.registry import Models
from resonnx_server.observe.logs import LogControl
from resonnx_server.protocol.oip.log_settings import change

_PATH: Final = "/v2/logging"
# Bytes of a body.
_MOST_BYTES: Final = 1 << 12
_MOST: Final = 2**32 - 1


class LogPages:
    """`/v2/logging`, for the role `admin`.

    Args:
        control: The levels of the process.
        models: For the count of rejected requests.
        exchange: Receives posted requests.
    """

    extensions = ("logging",)

    def __init__(self, control: LogControl, models: Models, exchange: Exchange) -> None:
        self._control = control
        self._models = models
        self.pages = [
            Page(_PATH, self._get, Role.ADMIN, is_json=True),
            exchange.page(_PATH, self._post, _MOST_BYTES, Role.ADMIN),
        ]

    async def _get(self, request: web.Request) -> web.Response:
        return json_response(_shown(change(self._control, pb.LogSettingsRequest(), CALLER.get())))

    async def _post(self, posted: Posted) -> Content:
        with self._models.rejected.counting():
            response = change(self._control, _request(posted.take_body()), posted.caller)
        return Content(to_json(_shown(response)), JSON)


def _request(body: bytes | bytearray) -> pb.LogSettingsRequest:
    """Return the changes of a body, as {"log_verbose_level": 1}. Raises UnreadableMessage or InvalidInput."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise UnreadableMessage("the request is not JSON") from None
    if not isinstance(given, dict):
        raise InvalidInput("request", 'must be a JSON object, as {"log_verbose_level": 1}')
    request = pb.LogSettingsRequest()
    for name, value in given.items():
        _set(request.settings[name.encode(errors="replace").decode()], value)
    return request


def _set(setting: pb.LogSettingsRequest.SettingValue, value: object) -> None:
    """Set a value; one of no fitting type stays unset, which is refused with the setting's name."""
    if isinstance(value, bool):
        setting.bool_param = value
    elif isinstance(value, int) and 0 <= value <= _MOST:
        setting.uint32_param = value
    elif isinstance(value, str):
        setting.string_param = value.encode(errors="replace").decode()


def _shown(response: pb.LogSettingsResponse) -> dict[str, Any]:
    settings = response.settings
    return {name: getattr(value, str(value.WhichOneof("parameter_choice"))) for name, value in settings.items()}
