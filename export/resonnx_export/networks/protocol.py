"""What every captioner offers, whatever is inside: `encode` looks at pictures once, `step` adds one word.

Tracing, the eager reference and the proofs know captioners by this alone. Rows are axis 0 everywhere, and a step holds
no Python loop over data.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from resonnx_export.networks.resnet import ResNet


class Encoded(NamedTuple):
    """What decoding starts from.

    Attributes:
        state: What each step changes, [N, ...] each.
        features: What the steps only read, [N, ...] each; may be empty.
        first_log_probs: [N,V], where the picture itself was step 0 and already says the first word; otherwise decoding
            starts from a start token.
    """

    state: tuple[Tensor, ...]
    features: tuple[Tensor, ...]
    first_log_probs: Tensor | None = None


class Stepped(NamedTuple):
    """One word further: log_probs [R,V], the next state, attention [R,P] over P positions where there is any."""

    log_probs: Tensor
    state: tuple[Tensor, ...]
    attention: Tensor | None = None


class CaptionNetwork(nn.Module, ABC):
    """A ResNet (`trunk`) and what writes captions about its features."""

    trunk: ResNet

    @property
    @abstractmethod
    def vocabulary_size(self) -> int:
        """V, the special tokens included."""

    @abstractmethod
    def encode(self, images: Tensor) -> Encoded:
        """Look at normalised float pictures [N,3,H,W]."""

    @abstractmethod
    def step(self, token: Tensor, state: tuple[Tensor, ...], features: tuple[Tensor, ...]) -> Stepped:
        """Read token int64 [R], one per row, and say what may follow it."""

    def attention_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of the positions that attention covers in pictures of this size."""
        return 0, 0
