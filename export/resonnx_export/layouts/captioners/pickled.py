"""What whole pickled modules of captioners tell beyond their weights: the classes and attributes of their layers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from torch import nn

from resonnx_export.checkpoints.pickles import Stub
from resonnx_export.errors import BadInput
from resonnx_export.layouts.captioners.encoder import Encoder
from resonnx_export.layouts.captioners.parts import Part
from resonnx_export.networks.resnet import ResNet

_GEOMETRY: Final = ("stride", "padding", "dilation")
_SCORES: Final = {"ReLU": "relu", "Tanh": "tanh"}
_LISTED: Final = 4


def recorded(parts: Sequence[Part]) -> dict[str, str]:
    """Return the values of properties that pickled modules have, by the names of --assume; none for state_dicts."""
    values: dict[str, str] = {}
    layers = [layer for part in parts for layer in _layers(part).values()]
    epsilons = [layer.attributes.get("eps") for layer in layers if _kind(layer) == "BatchNorm2d"]
    if epsilons and isinstance(epsilons[0], float) and all(each == epsilons[0] for each in epsilons):
        values["bn-eps"] = f"{epsilons[0]:g}"
    for layer in layers:
        children = list(_children(layer).values())
        if any(_kind(child) == "Linear" and child.attributes.get("out_features") == 1 for child in children):
            scores = {_SCORES[_kind(child)] for child in children if _kind(child) in _SCORES}
            if len(scores) == 1:
                values["attention-activation"] = scores.pop()
    return values


def refuse_differences(parts: Sequence[Part], encoder: Encoder, trunk: ResNet) -> None:
    """Compare the convolutions of a pickled ResNet with those of the network that was built.

    Raises:
        BadInput: A stride, padding or dilation differs; the message lists the first ones.
    """
    found = [line for part in parts for line in _differences(_layers(part), encoder, trunk)]
    if found:
        more = f", and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise BadInput(
            f"the pickled encoder is not the ResNet that its weights stand for: {'; '.join(found[:_LISTED])}{more}; "
            "give --assume strides, dilation or stride-in as your network has them"
        )


def _differences(layers: Mapping[str, Stub], encoder: Encoder, trunk: ResNet) -> Iterator[str]:
    for name, layer in layers.items():
        own = encoder.names.get(f"{name}.weight")
        if own is None or _kind(layer) != "Conv2d":
            continue
        built = trunk.get_submodule(own.removesuffix(".weight"))
        assert isinstance(built, nn.Conv2d)
        for attribute in _GEOMETRY:
            theirs = layer.attributes.get(attribute)
            if _is_pair(theirs) and theirs != getattr(built, attribute):
                yield f"{name} has {attribute} {theirs}, not {getattr(built, attribute)}"


def _layers(part: Part) -> dict[str, Stub]:
    """Return a pickled part's modules by name; state_dict_of has checked their number."""
    found: dict[str, Stub] = {}
    waiting = [] if part.module is None else [("", part.module)]
    while waiting:
        name, layer = waiting.pop()
        found[name] = layer
        waiting += [(f"{name}.{child}" if name else child, each) for child, each in _children(layer).items()]
    return found


def _children(layer: Stub) -> dict[str, Stub]:
    children = layer.attributes.get("_modules")
    if not isinstance(children, dict):
        return {}
    return {name: child for name, child in children.items() if isinstance(name, str) and isinstance(child, Stub)}


def _kind(layer: Stub) -> str:
    return layer.path.rpartition(".")[2]


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(type(part) is int for part in value)
