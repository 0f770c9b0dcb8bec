"""The interface of captioners: `encode` reads pictures once, `step` adds one word.

Tracing, the PyTorch reference and the checks use this alone. Axis 0 is the batch, and a step has no loop over data.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from resonnx_export.networks.resnet import ResNet, ResNetConfig


class Encoded(NamedTuple):
    """The start of decoding.

    Attributes:
        state: Changed by each step, [N, ...] each.
        features: Only read by the steps, [N, ...] each; may be empty.
        first_log_probs: [N,V] of the first word, where the picture itself was step 0; otherwise decoding begins with a
            start token.
    """

    state: tuple[Tensor, ...]
    features: tuple[Tensor, ...]
    first_log_probs: Tensor | None = None

    def named(self) -> dict[str, Tensor]:
        """Return state and features by the names of the decoder's inputs."""
        state = {f"state_{i}": tensor for i, tensor in enumerate(self.state)}
        return state | {f"feature_{j}": tensor for j, tensor in enumerate(self.features)}

    def rows(self, rows: Any) -> "Encoded":
        """Return some of the rows, in the order given."""
        first = None if self.first_log_probs is None else self.first_log_probs[rows]
        return Encoded(tuple(each[rows] for each in self.state), tuple(each[rows] for each in self.features), first)


class Stepped(NamedTuple):
    """One step: log_probs [R,V], the next state, and attention [R,P] over P positions if the network has attention."""

    log_probs: Tensor
    state: tuple[Tensor, ...]
    attention: Tensor | None = None


@dataclass(frozen=True)
class CaptionConfig:
    """The shape of a captioner.

    Attributes:
        trunk: The ResNet, with `num_classes` 0.
        vocabulary_size: V, with the special tokens.
        embedding_size: E, of a word.
        hidden_size: H, of the cells.
    """

    trunk: ResNetConfig
    vocabulary_size: int
    embedding_size: int
    hidden_size: int


class CaptionNetwork(nn.Module, ABC):
    """A network that captions pictures, of any class."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size

    @abstractmethod
    def encode(self, images: Tensor) -> Encoded:
        """Encode normalised float pictures [N,3,H,W]."""

    @abstractmethod
    def step(self, token: Tensor, state: tuple[Tensor, ...], features: tuple[Tensor, ...]) -> Stepped:
        """Read token int64 [R], one per row, and score the next."""

    def attention_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of the attention over pictures of this size in pixels; 0, 0 without attention."""
        return 0, 0


class ResNetCaptioner(CaptionNetwork):
    """A ResNet (`trunk`) and a recurrent network that captions its features."""

    def __init__(self, config: CaptionConfig) -> None:
        super().__init__(config.vocabulary_size)
        self.trunk = ResNet(config.trunk)
