"""What every classifier offers, whatever is inside: features of pictures, and a head that makes logits of them.

Tracing, the eager reference and the proofs know classifiers by this alone.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class ClassifierNetwork(nn.Module, ABC):
    """Maps normalised float pictures [N,in_channels,H,W] to logits [N,num_classes].

    Attributes:
        fc: The head, from features to logits.
    """

    fc: nn.Module

    @property
    @abstractmethod
    def in_channels(self) -> int:
        """3, or 1 for grey pictures."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """K of the logits; 0 without a head."""

    @property
    @abstractmethod
    def feature_size(self) -> int:
        """D of `forward_features`."""

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """Return what the head is given: [N,D]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [N,K]."""
        return self.fc(self.forward_features(x))  # type: ignore[no-any-return]
