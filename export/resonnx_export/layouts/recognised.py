"""What recognising a checkpoint's layout comes to; classifier_layouts.py and caption_layouts/ do it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from resonnx_export.networks import (
    CaptionNetwork,
    ClassifierNetwork,
    ResNet,
    architecture_name,
    load_strict,
)


@dataclass(frozen=True)
class RecognisedCheckpoint:
    """A network with a checkpoint's weights, in eval mode, float32.

    Attributes:
        layout: The layout's name, as Manifest.source.layout tells it.
        architecture: "resnet50" and the like; of a captioner, its trunk's.
        network: The loaded network.
        dtypes: What the checkpoint stores its floating-point tensors in, e.g. ("float32",).
        notes: What was taken for granted, for the person who exports.
    """

    layout: str
    architecture: str
    network: ClassifierNetwork | CaptionNetwork
    dtypes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Learned numbers, without BatchNorm's running statistics."""
        return sum(parameter.numel() for parameter in self.network.parameters())


def loaded(layout: str, network: ResNet | CaptionNetwork, state_dict: Mapping[str, Tensor]) -> RecognisedCheckpoint:
    """Load a state_dict, whose keys are the network's own, and make the network ready for export.

    Raises:
        CheckpointMismatch: Keys or shapes do not fit.
    """
    load_strict(network, state_dict)
    dtypes = {str(value.dtype).removeprefix("torch.") for value in state_dict.values() if value.is_floating_point()}
    network.float().eval().requires_grad_(False)
    trunk = network.trunk if isinstance(network, CaptionNetwork) else network
    return RecognisedCheckpoint(layout, architecture_name(trunk.config), network, tuple(sorted(dtypes)))
