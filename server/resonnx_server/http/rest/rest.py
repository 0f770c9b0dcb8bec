"""The REST side as a whole."""

import asyncio
from importlib.metadata import version as distribution_version
from typing import Final

from resonnx_server.http.pages import Page
from resonnx_server.http.rest.body import Bodies
from resonnx_server.http.rest.exchange import Exchange
from resonnx_server.http.rest.models.pages import ModelPages
from resonnx_server.http.rest.pictures.clip_pages import ClipPages
from resonnx_server.http.rest.pictures.pages import PicturePages
from resonnx_server.http.rest.pictures.uploads import Uploads
from resonnx_server.http.rest.tensors.description_pages import DescriptionPages
from resonnx_server.http.rest.tensors.log_pages import LogPages
from resonnx_server.http.rest.tensors.pages import TensorPages
from resonnx_server.inference.requests import Inference
from resonnx_server.observe.logs import control
from resonnx_server.protocol.comparisons import ComparisonStatus
from resonnx_server.protocol.oip.serving import TensorServing
from resonnx_server.protocol.oip.statistics import Statistics
from resonnx_server.protocol.pieces import Pieces
from resonnx_server.protocol.unpacking import Unpacker
from resonnx_server.protocol.vision.serving import VisionServing
from resonnx_server.protocol.vision.video import VideoServing

_EXTENSIONS: Final = (
    "classification",
    "model_configuration",
    "schedule_policy",
    "binary_tensor_data",
    "parameters",
    "statistics",
)
# Values of all heatmaps of an answer: written as JSON on the event loop, in about ten milliseconds.
_MOST_VALUES: Final = 1 << 14
# For answers that the server stops.
_LAST_ANSWERS_S: Final = 1.0


class Rest:
    """The REST pages of the HTTP port.

    Args:
        inference: The use cases.
        statistics: The counters.
        comparisons: What comparisons of versions have found.
        max_message_bytes: Limit of a request and of an answer.
        max_receive_s: Time limit for receiving a request.
        open_health: Health is open to all.

    Attributes:
        pages: The pages.
    """

    def __init__(
        self,
        inference: Inference,
        statistics: Statistics,
        comparisons: ComparisonStatus,
        max_message_bytes: int,
        max_receive_s: float,
        *,
        open_health: bool,
    ) -> None:
        pieces = Pieces("rest")
        models = inference.models
        self._exchange = Exchange(inference, Bodies(Unpacker(inference.budget), max_receive_s), pieces)
        descriptions = DescriptionPages(
            models,
            statistics,
            self._exchange,
            max_message_bytes,
            open_health=open_health,
            extensions=(*_EXTENSIONS, *LogPages.extensions),
            version=distribution_version("resonnx-server"),
        )
        tensors = TensorPages(models, TensorServing(inference, pieces), self._exchange, pieces, max_message_bytes)
        vision = VisionServing(inference, pieces, _MOST_VALUES)
        uploads = Uploads(models, pieces)
        pictures = PicturePages(uploads, vision, self._exchange, max_message_bytes)
        clips = ClipPages(uploads, VideoServing(inference), self._exchange, max_message_bytes)
        told, logs = ModelPages(models, comparisons), LogPages(control, models, self._exchange)
        pages = (descriptions, tensors, pictures, clips, told, logs)
        self.pages: list[Page] = [page for group in pages for page in group.pages]

    async def answered(self) -> None:
        """Wait until the answers of the present requests are sent."""
        await self._exchange.active.answered()

    async def end(self) -> None:
        """End all requests: they are answered that the server stops."""
        self._exchange.active.end()
        try:
            async with asyncio.timeout(_LAST_ANSWERS_S):
                await self._exchange.active.answered()
        except TimeoutError:
            pass
