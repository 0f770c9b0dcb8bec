"""The pages of the Open Inference Protocol."""

from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from resonnx_server.access.caller import Role
from resonnx_server.errors import InvalidInput, NotFound, ServerError
from resonnx_server.http.guard import CALLER
from resonnx_server.http.pages import Page
from resonnx_server.http.rest.exchange import Content, Exchange, Posted
from resonnx_server.http.rest.failures import failure, json_response, status_of
from resonnx_server.http.rest.tensors.answer import write_answer
from resonnx_server.http.rest.tensors.message_json import as_json
from resonnx_server.http.rest.tensors.request import read_request
from resonnx_server.inference.missing import told_to
from resonnx_server.inference.registry import Model, Models
from resonnx_server.protocol.oip import describe
from resonnx_server.protocol.oip.contents import cleared
from resonnx_server.protocol.oip.outputs import are_small, requested_outputs
from resonnx_server.protocol.oip.ranking import check_classes
from resonnx_server.protocol.oip.serving import Inferred, TensorServing
from resonnx_server.protocol.pieces import Pieces, at_once

# Bytes of the JSON before binary data.
HEAD_BYTES: Final = "Inference-Header-Content-Length"
_JSON: Final = {"Content-Type": "application/json"}
# Read, or written as JSON, on the event loop: about a millisecond.
_SMALL_BODY: Final = 1 << 14
_SMALL_ELEMENTS: Final = 1 << 11


class TensorPages:
    """The protocol's pages.

    Args:
        models: The registry.
        serving: Runs requests.
        exchange: Receives them, and sends answers.
        pieces: The thread of large requests and answers.
        max_message_bytes: Limit of a request and of an answer.
        open_health: Health is open to all.
        extensions: Names of what the server offers beyond the protocol.
        version: The server's.
    """

    def __init__(
        self,
        models: Models,
        serving: TensorServing,
        exchange: Exchange,
        pieces: Pieces,
        max_message_bytes: int,
        *,
        open_health: bool,
        extensions: tuple[str, ...],
        version: str,
    ) -> None:
        self._models = models
        self._serving = serving
        self._pieces = pieces
        self._most = max_message_bytes
        self._about = {"name": "resonnx", "version": version, "extensions": [*extensions]}
        health = None if open_health else Role.READ
        self.pages = [
            Page("/v2", self._get_server, is_json=True),
            Page("/v2/health/live", self._get_live, None, is_json=True),
            Page("/v2/health/ready", self._get_ready, health, is_json=True),
        ]
        for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            self.pages += [
                Page(path, self._get_model, is_json=True),
                Page(f"{path}/config", self._get_config, is_json=True),
                Page(f"{path}/ready", self._get_model_ready, health, is_json=True),
                Page(f"{path}/infer", exchange.page(self._infer), Role.INFER, max_message_bytes, is_json=True),
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
        name, version = _asked(request)
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
        return self._described(request, lambda model: _metadata(model, self._models.versions(model.name)))

    async def _get_config(self, request: web.Request) -> web.Response:
        return self._described(request, lambda model: as_json(describe.config(model)))

    def _described(self, request: web.Request, described: Callable[[Model], dict[str, Any]]) -> web.Response:
        name, version = _asked(request)
        try:
            self._models.check(name, CALLER.get())
            return json_response(described(self._models.find(name, version, caller=CALLER.get())))
        except ServerError as error:
            return failure(error)

    async def _infer(self, posted: Posted) -> Content:
        name, version = _asked(posted.request)
        try:
            # Before the work of reading the request.
            self._models.check(name, posted.caller)
            self._models.find(name, version, caller=posted.caller)
            body = posted.take_body()
            work = read_request(body, _head_bytes(posted.request), name, version)
            small = len(body) <= _SMALL_BODY
            given, asked = at_once(work) if small else await self._pieces.run(work)
            del body
        except InvalidInput as error:
            self._models.rejected.count(error)
            raise

        async def encode(inferred: Inferred) -> Content:
            outputs = requested_outputs(*inferred)
            classes = sum(output.strings for output in outputs if output.top_k)
            if classes:
                check_classes(classes)
            work = write_answer(given.message.id, inferred.model, outputs, asked, posted.answer, self._most)
            elements = sum(output.array.size for output in outputs if not asked.is_binary(output.name))
            if elements <= _SMALL_ELEMENTS and are_small(outputs):
                answer = at_once(work)
            else:
                try:
                    answer = await self._pieces.run(work)
                finally:
                    if any(output.array.dtype.hasobject for output in outputs):
                        await self._pieces.run(cleared(output.array for output in outputs))
            posted.answer.resize(len(answer.body), answer=True)
            if answer.head_bytes is None:
                return Content(answer.body, _JSON)
            headers = {"Content-Type": "application/octet-stream", HEAD_BYTES: str(answer.head_bytes)}
            return Content(answer.body, headers)

        posted.begin()
        return await self._serving.run(given, posted.deadline_ns, posted.caller, encode)


def _asked(request: web.Request) -> tuple[str, str]:
    """Return the model's name and version in a request's path."""
    return request.match_info["name"], request.match_info.get("version", "")


def _head_bytes(request: web.Request) -> int | None:
    header = request.headers.get(HEAD_BYTES)
    if header is None:
        return None
    if not (header.isascii() and header.isdigit() and len(header) < 19):
        raise InvalidInput(HEAD_BYTES, f"{header[:32]!r} is not a whole number of bytes")
    return int(header)


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
