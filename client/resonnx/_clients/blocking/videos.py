# Made by client/generate from ../aio/videos.py: edit that one.
"""Methods that classify videos."""

from collections.abc import Iterable

from resonnx._clients.blocking.connection import Connection
from resonnx._pictures.videos import VideoSource, to_video
from resonnx._rpcs import CLASSIFY_VIDEO
from resonnx._tasks.classify_video import video_classification, video_request
from resonnx._transport.retry import ClientDefault, Timeout
from resonnx._video_results import VideoClassification


class Videos(Connection):
    """Classifies videos."""

    def classify_video(
        self,
        video: VideoSource,
        model: str,
        *,
        times_s: Iterable[float] | None = None,
        version: int | str | None = None,
        top_k: int | None = None,
        priority: int | None = None,
        answer_within_s: float | None = None,
        timeout_s: Timeout = ClientDefault.TIMEOUT,
    ) -> VideoClassification:
        """Classify a whole clip.

        Args:
            video: A path of a clip's file (GIF, WebP; MP4 and WebM if the server has the extra `video`) or of a folder
                of frames, which are ordered by the numbers in their names; the bytes of such a file; an open file; an
                array uint8 [T, H, W, C]; or at most 4500 frames, each a picture as in `classify`. All of a clip has at
                most 64 MiB.
            model: A video classifier: NAME, NAME:VERSION or NAME:LABEL.
            times_s: The time of each frame in seconds, ascending; for models that sample by time. A file has its own.
            version: As in `classify`.
            top_k: As in `classify`.
            priority: As in `classify`.
            answer_within_s: As in `classify`.
            timeout_s: Timeout of this call; default the client's, None for no limit.

        Raises:
            ValueError: There are no frames, an array is not of such a shape, or the times do not fit the frames.
            InvalidArgument: There is more than a request may have (VIDEO_TOO_LARGE), or the server refuses it.
        """
        request = video_request(
            to_video(video, times_s),
            model,
            version=version,
            top_k=top_k,
            priority=priority,
            answer_within_s=answer_within_s,
        )
        return video_classification(self._calls.unary(CLASSIFY_VIDEO, request, timeout_s))
