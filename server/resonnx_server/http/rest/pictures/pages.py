"""The pages that take pictures: /v1/classify/NAME and /v1/caption/NAME."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from aiohttp import web
from resonnx_proto.v1 import vision_pb2 as pb

from resonnx_server.errors import InvalidInput, ServerError
from resonnx_server.http.connection import CONNECTION
from resonnx_server.http.rest.events import HEADERS, TYPE, event
from resonnx_server.http.rest.exchange import Content, Exchange, Posted
from resonnx_server.http.rest.failures import body_of
from resonnx_server.http.rest.json_text import JSON, to_json
from resonnx_server.http.rest.pictures.answers import captioned, classified, word
from resonnx_server.http.rest.pictures.files import File
from resonnx_server.http.rest.pictures.uploads import Uploads, is_form
from resonnx_server.inference.many import all_of
from resonnx_server.inference.pictures import EncodedPictures
from resonnx_server.observe.requests.identity import IDENTITY, Identity
from resonnx_server.protocol.vision.serving import OnWord, VisionServing

# Runs one picture, of so many whose answers are sent as one, and returns its answer.
Run = Callable[[File, Posted, int], Coroutine[Any, Any, dict[str, Any]]]


class PicturePages:
    """The pages of pictures.

    Args:
        uploads: Reads requests.
        serving: Runs them.
        exchange: Receives them, and sends answers.
        max_message_bytes: Limit of a request.
    """

    def __init__(self, uploads: Uploads, serving: VisionServing, exchange: Exchange, max_message_bytes: int) -> None:
        self._uploads = uploads
        self._serving = serving
        self.pages = [
            exchange.page(path, answer, max_message_bytes)
            for path, answer in (("/v1/classify/{name}", self._classify), ("/v1/caption/{name}", self._caption))
        ]

    async def _classify(self, posted: Posted) -> Content:
        message = self._uploads.message(pb.ClassifyRequest, posted)

        async def run(file: File, posted: Posted, sharing: int) -> dict[str, Any]:
            picture, size = partial(_picture, file), len(file.content)
            deadline, caller = posted.deadline_ns, posted.caller
            return classified(await self._serving.classify(message, picture, size, deadline, caller, sharing))

        return await self._answer(posted, run)

    async def _caption(self, posted: Posted) -> Content | web.StreamResponse:
        message = self._uploads.message(pb.CaptionRequest, posted)

        async def run(file: File, posted: Posted, _: int, on_word: OnWord | None = None) -> dict[str, Any]:
            picture, size = partial(_picture, file), len(file.content)
            return captioned(
                await self._serving.caption(message, picture, size, posted.deadline_ns, posted.caller, on_word)
            )

        if TYPE not in ",".join(posted.request.headers.getall("Accept", ())).lower():
            return await self._answer(posted, run)
        files = await self._uploads.files(posted)
        if len(files) != 1:
            with self._uploads.rejected.counting():
                raise InvalidInput("request", f"{len(files)} pictures; words are sent as events for one")
        return await self._stream(posted, lambda on_word: run(files[0], posted, 1, on_word))

    async def _answer(self, posted: Posted, run: Run) -> Content:
        """Return the answer to a body of one picture, or to a form of several, of which some may fail."""
        files = await self._uploads.files(posted)
        if not is_form(posted):
            posted.begin()
            return Content(to_json(await run(files[0], posted, 1)), JSON)
        # Each picture counts as a request.
        posted.is_begun = True
        errors: list[ServerError] = []

        async def one(file: File) -> bytes:
            # The task serves this picture only.
            IDENTITY.set(Identity.within(IDENTITY.get()))
            try:
                answer = await run(file, posted, len(files))
            except ServerError as error:
                errors.append(error.with_traceback(None))
                answer = body_of(error)
            # Written now: those of all pictures at once would hold the event loop.
            return to_json({"name": file.name, **answer})

        found = await all_of(one(file) for file in files)
        if len(errors) == len(files):
            raise errors[0]
        return Content(b'{"pictures":[' + b",".join(found) + b"]}", JSON)

    async def _stream(
        self, posted: Posted, run: Callable[[OnWord], Coroutine[Any, Any, dict[str, Any]]]
    ) -> web.StreamResponse:
        """Send the words of a caption as events, then the whole answer."""
        words: asyncio.Queue[pb.Word | None] = asyncio.Queue()
        posted.begin()
        running = asyncio.create_task(run(words.put_nowait))
        running.add_done_callback(lambda _: words.put_nowait(None))
        try:
            given = await words.get()
            if given is None:
                # What failed before the first word is no event.
                running.result()
            stream = web.StreamResponse(headers=HEADERS)
            posted.stream = stream
            if (connection := CONNECTION.get(None)) is not None:
                connection.send()
            await stream.prepare(posted.request)
            while given is not None:
                await stream.write(event("word", word(given)))
                given = await words.get()
            await stream.write(event("caption", running.result()))
            return stream
        finally:
            running.cancel()


def _picture(file: File) -> EncodedPictures:
    return EncodedPictures([file.content], "picture", numbered=False)
