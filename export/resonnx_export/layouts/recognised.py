"""A recognised checkpoint: the result of layouts/classifiers.py, layouts/captioners/ and layouts/video/."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from resonnx_proto.v1 import manifest_pb2 as pb
from torch import Tensor, nn

from resonnx_export.assumptions.assumption import Assumption
from resonnx_export.networks.detect import load_strict
from resonnx_export.networks.naming import architecture_name
from resonnx_export.networks.protocol import CaptionNetwork, ResNetCaptioner
from resonnx_export.networks.resnet import ClassifierNetwork, ResNet
from resonnx_export.networks.video import RecurrentVideo, VideoNetwork

Network = ClassifierNetwork | CaptionNetwork | VideoNetwork


@dataclass(frozen=True)
class RecognisedCheckpoint:
    """A network with a checkpoint's weights, in eval mode, float32.

    Attributes:
        architecture: "resnet50" and the like; of a captioner's or video classifier's trunk.
        found: A classifier in words, with its place in the file: "a ResNet-50 under `resnet.`"; "" for others.
        dtypes: Of the checkpoint's floating-point tensors, e.g. ("float32",).
        notes: Lines for the user.
        assumptions: Properties that the checkpoint does not record.
        reference: What the exported graphs are compared with: this network, which the exporter built from the
            checkpoint or the user's code.
        rebuild: Returns the network with other values of the assumptions, by name, or raises BadInput; None if the
            network is the user's own.
    """

    layout: str
    architecture: str
    network: Network
    dtypes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    reference: pb.Reference = pb.REFERENCE_OUR_READING
    rebuild: Callable[[Mapping[str, str]], nn.Module] | None = None
    found: str = ""

    @property
    def parameters(self) -> int:
        """Number of parameters, without BatchNorm's running statistics."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def has_classes(self) -> bool:
        """Whether it is a classifier with a head."""
        return isinstance(self.network, ClassifierNetwork) and self.network.num_classes > 0


def loaded(
    layout: str, network: ResNet | ResNetCaptioner | RecurrentVideo, state_dict: Mapping[str, Tensor]
) -> RecognisedCheckpoint:
    """Load a state_dict with the network's own keys, in eval mode. Raises CheckpointMismatch if it does not fit."""
    load_strict(network, state_dict)
    dtypes = {str(value.dtype).removeprefix("torch.") for value in state_dict.values() if value.is_floating_point()}
    network.float().eval().requires_grad_(False)
    trunk = network if isinstance(network, ResNet) else network.trunk
    parts = [] if trunk is None else [architecture_name(trunk.config)]
    if isinstance(network, RecurrentVideo):
        parts.append(network.sequence.name)
    architecture = " and ".join(parts)
    return RecognisedCheckpoint(layout, architecture, network, tuple(sorted(dtypes)))
