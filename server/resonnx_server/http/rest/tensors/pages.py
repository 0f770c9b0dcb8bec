"""The pages of the Open Inference Protocol that infer."""

from typing import Final

from aiohttp import web

from resonnx_server.errors import InvalidInput
from resonnx_server.http.rest.exchange import Content, Exchange, Posted
from resonnx_server.http.rest.json_text import JSON
from resonnx_server.http.rest.tensors.answer import write_answer
from resonnx_server.http.rest.tensors.description_pages import asked_model
from resonnx_server.http.rest.tensors.request import read_request
from resonnx_server.inference.registry import Models
from resonnx_server.protocol.oip.contents import cleared
from resonnx_server.protocol.oip.outputs import are_small, requested_outputs
from resonnx_server.protocol.oip.ranking import check_classes
from resonnx_server.protocol.oip.serving import Inferred, TensorServing
from resonnx_server.protocol.pieces import Pieces, at_once

# Bytes of the JSON before binary data.
HEAD_BYTES: Final = "Inference-Header-Content-Length"
# Read, or written as JSON, on the event loop: about a millisecond.
_SMALL_BODY: Final = 1 << 14
_SMALL_ELEMENTS: Final = 1 << 11


class TensorPages:
    """The protocol's pages that infer.

    Args:
        models: The registry.
        serving: Runs requests.
        exchange: Receives them, and sends answers.
        pieces: The thread of large requests and answers.
        max_message_bytes: Limit of a request and of an answer.
    """

    def __init__(
        self, models: Models, serving: TensorServing, exchange: Exchange, pieces: Pieces, max_message_bytes: int
    ) -> None:
        self._models = models
        self._serving = serving
        self._pieces = pieces
        self._most = max_message_bytes
        self.pages = [
            exchange.page(f"{path}/infer", self._infer, max_message_bytes)
            for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
        ]

    async def _infer(self, posted: Posted) -> Content:
        name, version = asked_model(posted.request)
        # Before the work of reading the request.
        self._models.check(name, posted.caller)
        self._models.find(name, version, caller=posted.caller)
        with self._models.rejected.counting():
            body = posted.take_body()
            work = read_request(body, _head_bytes(posted.request), name, version)
            small = len(body) <= _SMALL_BODY
            given, asked = at_once(work) if small else await self._pieces.run(work)
            del body

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
                return Content(answer.body, JSON)
            headers = {"Content-Type": "application/octet-stream", HEAD_BYTES: str(answer.head_bytes)}
            return Content(answer.body, headers)

        posted.begin()
        return await self._serving.run(given, posted.deadline_ns, posted.caller, encode)


def _head_bytes(request: web.Request) -> int | None:
    header = request.headers.get(HEAD_BYTES)
    if header is None:
        return None
    if not (header.isascii() and header.isdigit() and len(header) < 19):
        raise InvalidInput(HEAD_BYTES, f"{header[:32]!r} is not a whole number of bytes")
    return int(header)
