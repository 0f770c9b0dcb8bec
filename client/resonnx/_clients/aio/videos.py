"""Methods that classify videos."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable

from resonnx_proto.v1 import vision_pb2

from resonnx._clients.aio.connection import Connection
from resonnx._clients.aio.frames import Frames, requests_of
from resonnx._pictures.videos import StreamedFrame, VideoSource, streamed_frame, to_video
from resonnx._rpcs import CLASSIFY_VIDEO
from resonnx._tasks.classify_video import stream_request, video_classification, video_request
from resonnx._transport.retry import ClientDefault, Timeout
from resonnx._video_results import VideoClassification, VideoUpdate


class Videos(Connection):
    """Classifies videos."""

    async def classify_video(
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
        return video_classification(await self._calls.unary(CLASSIFY_VIDEO, request, timeout_s))

    def classify_video_stream(
        self,
        frames: AsyncIterable[StreamedFrame] | Iterable[StreamedFrame],
        model: str,
        *,
        version: int | str | None = None,
        top_k: int | None = None,
        answer_every: int | None = None,
        priority: int | None = None,
        answer_within_s: float | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[VideoUpdate]:
        """Classify a video while its frames come, over one stream.

        Frames are read as fast as the server takes them, by `Client` in a thread of gRPC; answers come as they are
        ready. A frame that cannot be read, or that the server refuses, ends the stream with its error. A stream without
        an answer is tried again as any call, with the frames that were sent, up to 64 MiB of them; one that breaks
        later raises the error, Unavailable if its server went away.

        Args:
            frames: Any number of pictures, at least one; for models that sample by time, pairs of a picture and its
                time in seconds.
            model: As in `classify_video`; models that sample uniformly cannot be streamed.
            version: As in `classify_video`.
            top_k: As in `classify_video`.
            answer_every: Answer after each so many frames that the model reads; default each.
            priority: Priority of each frame, as in `classify`.
            answer_within_s: Limit of each frame's answer, as in `classify`.
            timeout_s: Limit of the whole stream in seconds; None for no limit.

        Yields:
            The classes of the frames so far; last, those of the whole video. Models that need whole clips answer at the
            end only.
        """
        first = stream_request(
            model,
            version=version,
            top_k=top_k,
            answer_every=answer_every,
            priority=priority,
            answer_within_s=answer_within_s,
        )

        def convert(number: int, frame: StreamedFrame) -> vision_pb2.ClassifyVideoStreamRequest:
            request = streamed_frame(frame, number)
            if number == 0:
                request.MergeFrom(first)
            return request

        return self._calls.classify_video_stream(Frames(requests_of(frames, convert)), timeout_s)
