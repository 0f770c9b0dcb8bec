"""Video classifiers: a network over each frame, and one over the features of a clip's frames."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from resonnx_export.networks.heads import HeadLayer, make_head
from resonnx_export.networks.resnet import ResNet, ResNetConfig
from resonnx_export.networks.sequence import Sequence, SequenceConfig
from resonnx_export.networks.unrecorded import make_activation


class VideoNetwork(nn.Module, ABC):
    """Maps clips of normalised float pictures [N,T,in_channels,H,W] to logits [N,num_classes].

    Attributes:
        in_channels: 3, or 1 for grey pictures; 0 for a network over given features.
        feature_size: D of a frame's features.
        num_classes: K of the logits.
    """

    in_channels: int
    feature_size: int
    num_classes: int

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Return the features [B,D] of frames [B,in_channels,H,W]."""

    @abstractmethod
    def classify(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits [N,K] of features [N,T,D] of clips of lengths int64 [N], 1 to T."""


class StepwiseVideo(VideoNetwork):
    """A network that may also read a clip frame by frame.

    Attributes:
        states: Sizes of its states [N,size], all zeros before a clip; empty if it reads whole clips only.
    """

    states: tuple[int, ...]

    @abstractmethod
    def step(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the logits [N,K] after one more frame of each clip, features [N,D], and the next state."""


@dataclass(frozen=True)
class VideoConfig:
    """The shape of a video classifier.

    Attributes:
        trunk: The ResNet, with `num_classes` 0; None for a network over given features.
        given_size: Size of the given features, without a trunk.
        projection: Layers between a frame's features and the cells; may be empty.
        projection_activation: Between its linear layers, as make_activation's.
        features_activation: After it.
        sequence: The recurrent network.
    """

    trunk: ResNetConfig | None
    sequence: SequenceConfig
    given_size: int = 0
    projection: tuple[HeadLayer, ...] = ()
    projection_activation: str = "relu"
    features_activation: str = "none"


class RecurrentVideo(VideoNetwork):
    """A ResNet (`trunk`) and a projection over frames, and a recurrent network over time."""

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = None if config.trunk is None else ResNet(config.trunk)
        self.in_channels = 0 if config.trunk is None else config.trunk.in_channels
        size = config.given_size if config.trunk is None else config.trunk.feature_size
        self.feature_size = size if config.trunk is None else config.sequence.input_size
        self.num_classes = config.sequence.head[-1].outputs
        self.project: nn.Module = nn.Identity()
        if config.projection:
            eps = config.sequence.bn_eps
            self.project = make_head(size, config.projection, config.projection_activation, eps)
        self.features_activation = make_activation(config.features_activation)
        self.sequence = Sequence(config.sequence)

    def encode(self, images: Tensor) -> Tensor:
        """As VideoNetwork's."""
        assert self.trunk is not None
        return self._projected(self.trunk.forward_features(images))

    def classify(self, features: Tensor, lengths: Tensor) -> Tensor:
        """As VideoNetwork's."""
        if self.trunk is None:
            features = self._projected(features.flatten(0, 1)).view(*features.shape[:2], -1)
        return self.sequence(features, lengths)  # type: ignore[no-any-return]

    def _projected(self, features: Tensor) -> Tensor:
        return self.features_activation(self.project(features))  # type: ignore[no-any-return]
