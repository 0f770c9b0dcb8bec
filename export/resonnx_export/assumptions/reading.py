"""Applies assumptions about a ResNet to its configuration, and lists those that were made."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_export.assumptions.assumption import Assumption
from resonnx_export.assumptions.axes import AXES, BY_NAME
from resonnx_export.errors import BadInput
from resonnx_export.networks.resnet import ResNetConfig

Assumed = Mapping[str, str]
NOTHING: Final[Assumed] = MappingProxyType({})
# The ends of a network's name that told its variant before manifests had assumptions.
_STRIDE_IN_1X1 = "_stride_in_1x1"


def with_values(config: ResNetConfig, values: Assumed) -> ResNetConfig:
    """Return the network with other values of its properties, by name.

    Raises:
        BadInput: The network has no such property, or the property no such value; the message lists those that exist.
    """
    for name, value in values.items():
        axis = BY_NAME.get(name)
        if axis is None or not axis.values(config):
            exist = ", ".join(axis.name for axis in AXES if axis.values(config))
            network = f"this network ({config.block} blocks, {config.stem} stem)"
            raise BadInput(f"{network} has no property {name!r}; --assume takes {exist}")
        try:
            config = axis.changed(config, value)
        except ValueError as error:
            raise BadInput(f"--assume {error}") from None
    return config


def assumptions_of(config: ResNetConfig, layout: str, known: Assumed) -> tuple[Assumption, ...]:
    """List what the file of a network does not record, in the order of the network.

    Args:
        config: The network that was built.
        layout: The file's layout.
        known: What the user stated or the file records, which is confirmed.
    """
    found = []
    for axis in AXES:
        values = axis.values(config)
        if values and (axis.name in known or axis.told(config, layout)):
            value = axis.read(config)
            others = tuple(other for other in values if other != value)
            option = axis.option or f"--assume {axis.name}=VALUE"
            found.append(Assumption(axis.name, value, option, others, confirmed=axis.name in known))
    return tuple(found)


def values_in(manifest: pb.Manifest) -> dict[str, str]:
    """Return the values of a manifest's network, so that the same network is built again."""
    values = {each.name: each.value for each in manifest.assumptions if each.name in BY_NAME}
    if "stride-in" not in values and manifest.source.architecture.endswith(_STRIDE_IN_1X1):
        values["stride-in"] = "1x1"
    return values
