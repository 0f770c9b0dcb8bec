"""What requests see of comparisons of versions: comparison/ makes them."""

from typing import Final, Protocol

from resonnx_server.captioning.request import Captioned
from resonnx_server.inference.model import Model
from resonnx_server.observe.stats import Timing
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.scheduling.session_pool import Tensors


class Compared(Protocol):
    """The part of one request in a comparison. Event loop only; never raises."""

    def classified(self, pixels: Pixels, outputs: Tensors, timing: Timing) -> None:
        """Take the answer of a classifier: its outputs for pixels uint8 [N,H,W,3], and its times."""

    def captioned(self, pixels: Pixels, options: DecodeOptions, found: list[Captioned]) -> None:
        """Take the answer of a captioner: its captions for pixels uint8 [N,H,W,3], with these options."""

    def ended(self, error: BaseException | None, total_ns: int) -> None:
        """Note the end of the request, which took `total_ns`, and its error if it has failed."""


class Comparing(Protocol):
    """The comparisons that are under way. Event loop only."""

    @property
    def is_on(self) -> bool:
        """Whether there is one: all that a request asks if there is none."""

    def begin(self, model: Model, version: int | str, caller: str, identifier: str) -> tuple[Model, Compared | None]:
        """Return the model that answers a request, and the request's part in a comparison.

        Args:
            model: The one that the registry has for the call.
            version: The version that the call names; 0 or "" for none.
            caller: The caller's name.
            identifier: The request's own id; may be empty.
        """


class _None:
    """No comparisons."""

    is_on = False

    def begin(self, model: Model, version: int | str, caller: str, identifier: str) -> tuple[Model, Compared | None]:
        """Return the model as it is."""
        return model, None


NONE: Final[Comparing] = _None()
