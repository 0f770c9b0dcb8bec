"""Single changes of a reading: another value of an assumption about the network, or another preprocessing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_export.assumptions.assumption import Assumption
from resonnx_export.errors import BadInput
from resonnx_export.pictures.recipe import (
    FILE_CHOICES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    ChannelOrder,
    InputChanges,
    PixelScale,
    channel_order,
    parts,
)
from resonnx_export.pictures.recipes import PREPROCESSING

_CAFFE_RGB: Final = (123.68, 116.779, 103.939)
# Scale, mean and deviation of common training code; the last two normalise pixels that were not divided by 255.
_NORMALISATIONS: Final[Sequence[tuple[PixelScale, Sequence[float], Sequence[float]]]] = (
    ("1", IMAGENET_MEAN, IMAGENET_STD),
    ("1", (0.0,) * 3, (1.0,) * 3),
    ("1", (0.5,) * 3, (0.5,) * 3),
    ("1", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    ("1", (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    ("1", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    ("1", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ("1", IMAGENET_MEAN, (1.0,) * 3),
    ("255", (0.0,) * 3, (1.0,) * 3),
    ("255", _CAFFE_RGB, (1.0,) * 3),
    ("255", _CAFFE_RGB[::-1], (1.0,) * 3),
    ("255", (127.5,) * 3, (1.0,) * 3),
    ("255", (127.5,) * 3, (128.0,) * 3),
    ("255", IMAGENET_MEAN, IMAGENET_STD),
    ("255", (0.5,) * 3, (0.5,) * 3),
)
# The input's longer side as a share of the resized short side.
_CROPS: Final = (1.0, 0.875, 0.95, 0.9)
# torchvision's second weights: 232 for 224.
_SECOND_WEIGHTS: Final = 224 / 232
# Values of assumptions that are less common than the listed alternatives.
_RARER: Final[Mapping[str, Sequence[str]]] = {
    "activation": ("leaky_relu:0.1", "leaky_relu:0.2", "tanh", "gelu_tanh", "selu"),
    "bn-eps": ("0.0001", "0.01", "2e-05"),
}


@dataclass(frozen=True)
class Change:
    """One change.

    Attributes:
        axis: The property that it changes; two changes of one axis exclude each other.
        typed: The option that makes it.
        values: Other values of the network's assumptions, by name.
        input: Changes of the recipe.
    """

    axis: str
    typed: str
    values: dict[str, str] = field(default_factory=dict)
    input: InputChanges = field(default_factory=InputChanges)

    def joined(self, other: "Change") -> "Change":
        """Return both changes as one."""
        mine = {each.name: getattr(self.input, each.name) for each in fields(self.input)}
        changed: dict[str, Any] = {name: value for name, value in mine.items() if value not in (None, False)}
        return Change(
            f"{self.axis} and {other.axis}",
            f"{self.typed} {other.typed}",
            self.values | other.values,
            replace(other.input, **changed),
        )


def network_changes(assumptions: Sequence[Assumption]) -> Iterator[Change]:
    """Yield a change for each other value of each assumption about a network; some may not apply to it."""
    for assumption in assumptions:
        if assumption.name not in PREPROCESSING:
            rarer = (value for value in _RARER.get(assumption.name, ()) if value != assumption.value)
            for value in dict.fromkeys((*assumption.alternatives, *rarer)):
                yield _change(assumption, value)


def listed_changes(assumptions: Sequence[Assumption]) -> Iterator[Change]:
    """Yield those of network_changes that an assumption lists and the user did not rule out by stating a value."""
    for assumption in assumptions:
        if assumption.name not in PREPROCESSING and not assumption.confirmed:
            yield from (_change(assumption, value) for value in assumption.alternatives)


def _change(assumption: Assumption, value: str) -> Change:
    return Change(assumption.name, _typed(assumption, value), {assumption.name: value})


def _typed(assumption: Assumption, value: str) -> str:
    if "VALUE" in assumption.option:
        return assumption.option.replace("VALUE", value)
    # The option may name the value that it sets.
    removes = assumption.confirmed and value not in assumption.option
    return f"without {assumption.option}" if removes else assumption.option


def picture_changes(recipe: pb.ImageInput, *, files: bool) -> Iterator[Change]:
    """Yield changes of the normalisation, and for picture `files` also of the resizing."""
    ours = parts(recipe)
    order: ChannelOrder = "rgb" if channel_order(recipe) == "bgr" else "bgr"
    candidates = [("channel order", f"--channel-order {order}", InputChanges(channel_order=order))]
    for scale, mean, std in _NORMALISATIONS:
        typed = f"--scale {scale} --mean {_numbers(mean)} --std {_numbers(std)}"
        candidates.append(("normalisation", typed, InputChanges(scale=scale, mean=mean, std=std)))
    if files:
        longest = max(recipe.height, recipe.width)
        sides = sorted({int(longest / crop) for crop in _CROPS} | {round(longest / _SECOND_WEIGHTS)})
        candidates += [
            ("resize", f"--resize-short-side {side}", InputChanges(resize_short_side=side)) for side in sides
        ]
        candidates.append(("resize", "--stretch", InputChanges(stretch=True)))
        for name, option, values in FILE_CHOICES:
            candidates += [(option, f"{option} {value}", replace(InputChanges(), **{name: value})) for value in values]
    seen = [ours]
    for axis, typed, changes in candidates:
        try:
            changed = parts(changes.apply(recipe))
        except BadInput:
            continue
        if changed not in seen:
            seen.append(changed)
            yield Change(axis, typed, input=changes)


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in values)
