"""The page that takes clips: /v1/classify-video/NAME."""

from typing import Final

from resonnx_proto.v1 import vision_pb2 as pb

from resonnx_server.errors import InvalidInput
from resonnx_server.http.rest.exchange import Content, Exchange, Posted
from resonnx_server.http.rest.json_text import JSON, to_json
from resonnx_server.http.rest.pictures.answers import watched
from resonnx_server.http.rest.pictures.options import times_of
from resonnx_server.http.rest.pictures.uploads import Uploads, is_form
from resonnx_server.protocol.vision.video import MOST_IMAGES, GivenVideo, VideoFields, VideoServing

_TIMES: Final = "times_s"
_FIELDS: Final = VideoFields("parts", "", _TIMES)


class ClipPages:
    """The page of clips.

    Args:
        uploads: Reads requests.
        serving: Runs them.
        exchange: Receives them, and sends answers.
        max_message_bytes: Limit of a request.
    """

    def __init__(self, uploads: Uploads, serving: VideoServing, exchange: Exchange, max_message_bytes: int) -> None:
        self._uploads = uploads
        self._serving = serving
        self.pages = [exchange.page("/v1/classify-video/{name}", self._classify, max_message_bytes)]

    async def _classify(self, posted: Posted) -> Content:
        message = self._uploads.message(pb.ClassifyVideoRequest, posted, (_TIMES,))
        with self._uploads.rejected.counting():
            times_s = times_of(posted.request.query, _TIMES)
            if times_s and not is_form(posted):
                raise InvalidInput(_TIMES, "is for the frames of a form; a file has times of its own")
        files = [file.content for file in await self._uploads.files(posted, MOST_IMAGES)]
        video = GivenVideo(files, times_s, fields=_FIELDS) if is_form(posted) else GivenVideo(clip=files[0])
        posted.begin()
        size = sum(map(len, files))
        return Content(
            to_json(watched(await self._serving.classify(message, video, size, posted.deadline_ns, posted.caller))),
            JSON,
        )
