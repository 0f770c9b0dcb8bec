"""The picture recipes that the public checkpoints were evaluated with, by name, and the one that each layout suggests.

A checkpoint does not name its recipe, and a wrong one costs accuracy silently; so the choice is always printed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple, get_args

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_export.assumptions.assumption import Assumption
from resonnx_export.pictures.configured import ConfiguredRecipe
from resonnx_export.pictures.recipe import (
    ChannelOrder,
    InputChanges,
    PixelScale,
    channel_order,
    describe,
    image_input,
    parts,
    pixel_scale,
)

RecipeName = Literal[
    "torchvision-v1", "torchvision-v2", "timm-tv", "timm-a1", "timm-a1-288", "hf", "cifar", "cifar-imagenet"
]

_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))

RECIPES: Final[Mapping[RecipeName, pb.ImageInput]] = {
    # torchvision's IMAGENET1K_V1 and _V2 weights.
    "torchvision-v1": image_input(224, resize_short_side=256),
    "torchvision-v2": image_input(224, resize_short_side=232),
    # timm resizes to floor(size / crop_pct): tv_in1k; a1, a2 and a3_in1k, which timm also tests at 288.
    "timm-tv": image_input(224, resize_short_side=256),
    "timm-a1": image_input(224, resize_short_side=235, resize_filter="bicubic"),
    "timm-a1-288": image_input(288, resize_short_side=288, resize_filter="bicubic"),
    # microsoft/resnet-*: ConvNextImageProcessor, crop_pct 0.875.
    "hf": image_input(224, resize_short_side=256, resize_filter="bicubic"),
    # kuangliu/pytorch-cifar; akamaster/pytorch_resnet_cifar10 takes ImageNet's mean and deviation.
    "cifar": image_input(32, resize_short_side=32, mean=_CIFAR10[0], std=_CIFAR10[1]),
    "cifar-imagenet": image_input(32, resize_short_side=32),
}
_SUGGESTED: Final[Mapping[str, RecipeName]] = {
    "timm": "timm-a1",
    "hugging-face": "hf",
    "cifar-kuangliu": "cifar",
    "cifar-akamaster": "cifar-imagenet",
}
_DEFAULT: Final = "torchvision-v1"


# Parts of a recipe, as recipe.parts names them, that one assumption tells. Answers recorded for pixels confirm all but
# the resizing.
RESIZING: Final = "resizing"
_ASSUMED: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    RESIZING: (
        ("size", "resize", "filter", "EXIF orientation"),
        "--size, --resize-short-side or --stretch, --filter, --exif-orientation",
    ),
    "normalisation": (("mean", "std"), "--mean, --std"),
}


class Chosen(NamedTuple):
    """A recipe, a line that describes it, and what of it the user did not state."""

    recipe: pb.ImageInput
    note: str
    assumptions: tuple[Assumption, ...]


@dataclass(frozen=True)
class RecipeChoice:
    """A recipe of RECIPES, or the model's own if it has one, or the one that the layout suggests, with changes."""

    name: RecipeName | None = None
    changes: InputChanges = field(default_factory=InputChanges)
    own: ConfiguredRecipe | None = None

    def for_layout(self, layout: str) -> Chosen:
        """Return the recipe. Raises BadInput as InputChanges.apply."""
        if self.own is not None and self.name is None:
            return self._own(self.own)
        name = self.name or _SUGGESTED.get(layout, _DEFAULT)
        recipe = self.changes.apply(RECIPES[name])
        changed = "" if recipe == RECIPES[name] else ", with the changes given"
        note = f"pictures: {describe(recipe)} (recipe {name}{changed})"
        if self.name is not None:
            return Chosen(recipe, note, (Assumption("preprocessing", f"recipe {name}{changed}", "--recipe", (), True),))
        others = tuple(other for other in RECIPES if other != name)
        return Chosen(recipe, note, assumed(recipe, self.changes, f"recipe {name}", "--recipe", others))

    def _own(self, own: ConfiguredRecipe) -> Chosen:
        recipe = self.changes.apply(own.recipe)
        changed = "" if recipe == own.recipe else ", with the changes given"
        note = f"pictures: {describe(recipe)} ({own.source}{changed})"
        assumptions = assumed(recipe, self.changes, own.source, "--recipe", tuple(RECIPES))
        if own.settled:
            assumptions = tuple(replace(each, confirmed=True) for each in assumptions)
        return Chosen(recipe, note, assumptions)


def assumed(
    recipe: pb.ImageInput, changes: InputChanges, source: str, option: str = "", others: Sequence[str] = ()
) -> tuple[Assumption, ...]:
    """Return what of a recipe the user did not state; what the user stated is confirmed.

    Args:
        recipe: With the changes.
        changes: The user's.
        source: Where the rest is from, e.g. "recipe hf".
        option: An option that changes it as a whole, beside those of its parts; "" if there is none.
        others: The values of that option.
    """
    described, stated = parts(recipe), changes.stated()
    found = []
    for name, (members, options) in _ASSUMED.items():
        open_members = [member for member in members if member not in stated]
        shown = ", ".join(described[member] for member in open_members or members)
        value = f"{shown} ({source})" if open_members else shown
        every = " or ".join(filter(None, (option, options)))
        found.append(Assumption(name, value, every, tuple(others), confirmed=not open_members))
    for name, value, values in (
        ("channel order", channel_order(recipe), get_args(ChannelOrder)),
        ("scale", pixel_scale(recipe), get_args(PixelScale)),
    ):
        alternatives = tuple(each for each in values if each != value)
        name_of_option = name.replace(" ", "-")
        found.append(Assumption(name_of_option, value, f"--{name_of_option}", alternatives, confirmed=name in stated))
    return tuple(found)
