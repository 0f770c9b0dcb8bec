"""Recognises whose layout a state_dict has, and builds the network that it belongs to.

A new layout is one more entry of _LAYOUTS.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from resonnx_export.errors import BadInput
from resonnx_export.networks import (
    Captioner,
    CheckpointMismatch,
    ResNet,
    architecture_name,
    config_from_state_dict,
    load_strict,
    resnet_config_from_state_dict,
)


@dataclass(frozen=True)
class Recognised:
    """A network with a checkpoint's weights, in eval mode, float32.

    Attributes:
        layout: The layout's name, as Manifest.source.layout tells it.
        architecture: "resnet50" and the like; of a captioner, its trunk's.
        network: The loaded network.
        dtypes: What the checkpoint stores its floating-point tensors in, e.g. ("float32",).
    """

    layout: str
    architecture: str
    network: ResNet | Captioner
    dtypes: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Learned numbers, without BatchNorm's running statistics."""
        return sum(parameter.numel() for parameter in self.network.parameters())


@dataclass(frozen=True)
class _Layout:
    name: str
    # A key that every state_dict of this layout has and none of the others.
    hallmark: str
    build: Callable[[Mapping[str, Tensor]], ResNet | Captioner]


_LAYOUTS: Final = (
    _Layout("resonnx-captioner", "decode_step.weight_ih", lambda state: Captioner(config_from_state_dict(state))),
    _Layout("torchvision", "layer1.0.conv1.weight", lambda state: ResNet(resnet_config_from_state_dict(state))),
)


def recognise(state_dict: Mapping[str, Tensor]) -> Recognised:
    """Build the network that a state_dict belongs to and load it.

    Raises:
        BadInput: No layout is recognised, or keys or shapes do not fit it; lists keys, shapes expected and found.
    """
    layout = next((layout for layout in _LAYOUTS if layout.hallmark in state_dict), None)
    if layout is None:
        known = ", ".join(f"{layout.name} (has {layout.hallmark})" for layout in _LAYOUTS)
        raise BadInput(
            f"no known layout: {len(state_dict)} keys, the first {', '.join(list(state_dict)[:4])}; known: {known}"
        )
    try:
        network = layout.build(state_dict)
        load_strict(network, state_dict)
    except CheckpointMismatch as error:
        raise BadInput(f"layout {layout.name}: {error}") from None
    dtypes = {str(value.dtype).removeprefix("torch.") for value in state_dict.values() if value.is_floating_point()}
    network.float().eval().requires_grad_(False)
    trunk = network.trunk if isinstance(network, Captioner) else network
    return Recognised(layout.name, architecture_name(trunk.config), network, tuple(sorted(dtypes)))
