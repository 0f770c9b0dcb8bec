"""What whole pickled modules of captioners tell beyond their weights: the classes and attributes of their layers."""

from collections.abc import Sequence
from typing import Final

from resonnx_export.checkpoints.pickles import Stub
from resonnx_export.layouts.captioners.parts import Part

_SCORES: Final = {"ReLU": "relu", "Tanh": "tanh"}


def recorded(parts: Sequence[Part]) -> dict[str, str]:
    """Return the values of properties that pickled modules have, by the names of --assume; none for state_dicts."""
    values: dict[str, str] = {}
    layers = [layer for part in parts for layer in _layers(part).values()]
    epsilons = [layer.attributes.get("eps") for layer in layers if _kind(layer) == "BatchNorm2d"]
    # Attributes may be of any type: a tensor's comparison is no truth value.
    numbers = {each for each in epsilons if isinstance(each, float)}
    if len(numbers) == 1 and all(isinstance(each, float) for each in epsilons):
        values["bn-eps"] = f"{numbers.pop():g}"
    sides = {side for layer in layers if (side := _pooled_side(layer)) is not None}
    if len(sides) == 1:
        values["attention-map"] = str(sides.pop())
    for layer in layers:
        children = list(_children(layer).values())
        widths = [child.attributes.get("out_features") for child in children if _kind(child) == "Linear"]
        if any(isinstance(width, int) and width == 1 for width in widths):
            scores = {_SCORES[_kind(child)] for child in children if _kind(child) in _SCORES}
            if len(scores) == 1:
                values["attention-activation"] = scores.pop()
    return values


def _pooled_side(layer: Stub) -> int | None:
    """Return the side of the square map that an adaptive pool averages to; None for other layers and for one value."""
    size = layer.attributes.get("output_size")
    sides = size if isinstance(size, tuple) else (size, size)
    if _kind(layer) != "AdaptiveAvgPool2d" or len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        return None
    return sides[0] if sides[0] == sides[1] and sides[0] > 1 else None


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
