"""The pages of the Open Inference Protocol that describe the server and its models, with those of Triton's clients."""

import json
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from resonnx_server.access.caller import Role
from resonnx_server.errors import InvalidInput, NotFound, ServerError, UnreadableMessage
from resonnx_server.http.guard import CALLER
from resonnx_server.http.pages import Page
from resonnx_server.http.rest.exchange import Content, Exchange, Posted
from resonnx_server.http.rest.failures import failure, json_response, status_of
from resonnx_server.http.rest.json_text import JSON, to_json
from resonnx_server.http.rest.tensors.message_json import as_json
from resonnx_server.inference.missing import told_to
from resonnx_server.inference.registry import Model, Models
from resonnx_server.protocol.oip import describe
from resonnx_server.protocol.oip.statistics import Statistics

# Bytes of the index's body.
_MOST_CHOICE: Final = 1 << 12


class DescriptionPages:
    """The protocol's pages that do not infer.

    Args:
        models: The registry.
        statistics: The counters.
        exchange: Receives posted requests.
        max_message_bytes: Limit of a request.
        open_health: Health is open to all.
        extensions: Names of what the server offers beyond the protocol.
        version: The server's.
    """

    def __init__(
        self,
        models: Models,
        statistics: Statistics,
        exchange: Exchange,
        max_message_bytes: int,
        *,
        open_health: bool,
        extensions: tuple[str, ...],
        version: str,
    ) -> None:
        self._models = models
        self._statistics = statistics
        self._about = {"name": "resonnx", "version": version, "extensions": [*extensions]}
        health = None if open_health else Role.READ
        self.pages = [
            Page("/v2", self._get_server, is_json=True),
            Page("/v2/health/live", self._get_live, None, is_json=True),
            Page("/v2/health/ready", self._get_ready, health, is_json=True),
            Page("/v2/models/stats", self._get_statistics, is_json=True),
            exchange.page("/v2/repository/index", self._index, max_message_bytes, Role.READ),
        ]
        for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            self.pages += [
                Page(path, self._get_model, is_json=True),
                Page(f"{path}/config", self._get_config, is_json=True),
                Page(f"{path}/stats", self._get_statistics, is_json=True),
                Page(f"{path}/ready", self._get_model_ready, health, is_json=True),
            ]

    async def _get_server(self, request: web.Request) -> web.Response:
        return json_response(self._about)

    async def _get_live(self, request: web.Request) -> web.Response:
        live = not self._models.is_dead
        return json_response({"live": live}, 200 if live else 503)

    async def _get_ready(self, request: web.Request) -> web.Response:
        ready = self._models.is_ready
        return json_response({"ready": ready}, 200 if ready else 503)

    async def _get_model_ready(self, request: web.Request) -> web.Response:
        name, version = asked_model(request)
        caller = CALLER.get(None)
        ready, status = True, 200
        try:
            if caller is not None:
                self._models.check(name, caller)
            ready = not self._models.get(name, version).engine.is_paused
            status = 200 if ready else 503
        except NotFound as error:
            # Others' errors name the models that there are.
            if caller is None:
                return failure(NotFound("there is no such model or version"))
            return failure(told_to(caller, error))
        except ServerError as error:
            ready, status = False, status_of(error)
        return json_response({"name": name, "ready": ready}, status)

    async def _get_model(self, request: web.Request) -> web.Response:
        _, version = asked_model(request)
        return self._described(
            request, lambda model: _metadata(model, [] if version else self._models.versions(model.name))
        )

    async def _get_config(self, request: web.Request) -> web.Response:
        return self._described(request, lambda model: as_json(describe.config(model)))

    async def _get_statistics(self, request: web.Request) -> web.Response:
        try:
            return json_response(as_json(self._statistics.of(*asked_model(request), CALLER.get())))
        except ServerError as error:
            return failure(error)

    async def _index(self, posted: Posted) -> Content:
        with self._models.rejected.counting():
            ready = _chosen_ready(posted.take_body())
        found = describe.index(self._models, posted.caller, ready=ready).models
        # Triton leaves empty fields out.
        entries = [{name: value for name, value in as_json(each).items() if value} for each in found]
        return Content(to_json(entries), JSON)

    def _described(self, request: web.Request, described: Callable[[Model], dict[str, Any]]) -> web.Response:
        name, version = asked_model(request)
        try:
            self._models.check(name, CALLER.get())
            return json_response(described(self._models.find(name, version, caller=CALLER.get())))
        except ServerError as error:
            return failure(error)


def asked_model(request: web.Request) -> tuple[str, str]:
    """Return the model's name and version in a request's path; "" for one that the path lacks."""
    return request.match_info.get("name", ""), request.match_info.get("version", "")


def _chosen_ready(body: bytes | bytearray) -> bool:
    """Return the field `ready` of a body, which may be empty. Raises UnreadableMessage or InvalidInput."""
    if len(body) > _MOST_CHOICE:
        raise InvalidInput("request", f"{len(body)} bytes, more than {_MOST_CHOICE} for this page")
    if not body.strip():
        return False
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise UnreadableMessage("the request is not JSON") from None
    ready = given.get("ready", False) if isinstance(given, dict) else None
    if not isinstance(ready, bool):
        raise InvalidInput("request", 'must be empty or a JSON object, as {"ready": true}')
    return ready


def _metadata(model: Model, versions: list[int]) -> dict[str, Any]:
    given = describe.metadata(model, versions)

    def shown(tensors: Any) -> list[dict[str, Any]]:
        return [{"name": each.name, "datatype": each.datatype, "shape": list(each.shape)} for each in tensors]

    return {
        "name": given.name,
        "versions": list(given.versions),
        "platform": given.platform,
        "inputs": shown(given.inputs),
        "outputs": shown(given.outputs),
    }
