"""A video file of a request, whose frames are decoded together."""

from resonnx_server.preprocessing.clips.decode import ClipDecoder, ClipPlan
from resonnx_server.preprocessing.decode import Decoder
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.pictures.options import PictureOptions
from resonnx_server.scheduling.deadline_admission import Decoding


class VideoFile:
    """The frames of a video file that a model reads.

    Args:
        clips: Decodes it.
        plan: Its headers, and which frames are read.
    """

    def __init__(self, clips: ClipDecoder, plan: ClipPlan) -> None:
        self._clips, self._plan = clips, plan
        self.read, self.count = plan.indices, len(plan.indices)

    async def decoding(self, decoder: Decoder, options: PictureOptions, priority: int, caller: str) -> Decoding | None:
        """Return the predicted time to decode it."""
        return self._clips.expected(self._plan, priority, caller)

    async def pixels(self, decoder: Decoder, options: PictureOptions, priority: int, caller: str) -> Pixels:
        """Return its frames as the model takes them, uint8 [count,H,W,3]. Raises BadClip, or ClipTooCostly."""
        return (await self._clips.load(self._plan, priority, caller)).frames
