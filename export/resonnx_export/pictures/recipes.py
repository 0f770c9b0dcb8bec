"""The picture recipes that the public checkpoints were evaluated with, by name, and the one that each layout suggests.

A checkpoint does not name its recipe, and a wrong one costs accuracy silently; so the choice is always printed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, get_args

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_export.assumptions.assumption import Assumption
from resonnx_export.errors import BadInput
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
    "cifar-weiaicunzai": "cifar",
    "cifar-akamaster": "cifar-imagenet",
}
_DEFAULT: Final = "torchvision-v1"


RESIZING: Final = "resizing"
# Parts of a recipe, as recipe.parts names them, that one assumption tells.
_ASSUMED: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    RESIZING: (
        ("size", "resize", "filter", "EXIF orientation"),
        "--size, --resize-short-side or --stretch, --filter, --exif-orientation",
    ),
    "normalisation": (("mean", "std"), "--mean, --std"),
}
# Assumptions about what becomes of pixels of the input's size.
NORMALISATION: Final = ("normalisation", "channel-order", "scale")
# All assumptions about preprocessing.
PREPROCESSING: Final = frozenset({"preprocessing", RESIZING, *NORMALISATION})


class Chosen(NamedTuple):
    """A recipe, a line that describes it, and what of it the user did not state."""

    recipe: pb.ImageInput
    note: str
    assumptions: tuple[Assumption, ...]


class ToldPictures(NamedTuple):
    """The preprocessing that a library's file records, and the file's name.

    Attributes:
        of_these_weights: False if it is that of published weights of the same network, which may differ.
    """

    changes: InputChanges
    source: str
    of_these_weights: bool = True

    def parts(self) -> set[str]:
        """Return the names, as in recipe.parts, of what is recorded."""
        stated = self.changes.stated()
        # The transforms of libraries, which resize, do not turn pictures.
        return stated | set(_ASSUMED[RESIZING][0]) if {"size", "resize"} <= stated else stated


@dataclass(frozen=True)
class RecipeChoice:
    """A recipe of RECIPES, that of a library's file, or the one that the layout suggests, with changes.

    Attributes:
        name: Of RECIPES; None for the others.
        changes: The user's.
        told: The preprocessing that stands beside the checkpoint; a name goes before it.
    """

    name: RecipeName | None = None
    changes: InputChanges = field(default_factory=InputChanges)
    told: ToldPictures | None = None

    def for_layout(self, layout: str) -> Chosen:
        """Return the recipe. Raises BadInput as InputChanges.apply."""
        name = self.name or _SUGGESTED.get(layout, _DEFAULT)
        if self.told is not None and self.name is None:
            return self._as_told(self.told, name)
        base = RECIPES[name]
        recipe, changed = self.changes.apply(base), self.changes.applied_to(base)
        note = f"pictures: {describe(recipe)} (recipe {name}{changed})"
        if self.name is not None:
            return Chosen(recipe, note, (Assumption("preprocessing", f"recipe {name}{changed}", "--recipe", (), True),))
        others = tuple(other for other in RECIPES if other != name)
        return Chosen(recipe, note, assumed(base, self.changes, f"recipe {name}", "--recipe", others))

    def _as_told(self, told: ToldPictures, name: RecipeName) -> Chosen:
        """Return what a file tells; the rest is the recipe's."""
        try:
            recorded = told.changes.apply(RECIPES[name])
        except BadInput as error:
            raise BadInput(f"{told.source}: {error}") from None
        recipe, changed = self.changes.apply(recorded), self.changes.applied_to(recorded)
        note = f"pictures: {describe(recipe)} ({told.source}{changed})"
        if not told.of_these_weights:
            return Chosen(recipe, note, assumed(recorded, self.changes, told.source, "--recipe", tuple(RECIPES)))
        return Chosen(recipe, note, assumed(recorded, self.changes, f"recipe {name}", "--recipe", told=told))


def assumed(
    base: pb.ImageInput,
    changes: InputChanges,
    source: str,
    option: str = "",
    others: Sequence[str] = (),
    told: ToldPictures | None = None,
) -> tuple[Assumption, ...]:
    """Return what of a recipe the user did not state; what the user or a file stated is confirmed.

    Args:
        base: The recipe that the changes are applied to.
        changes: The user's.
        source: Where the rest is from, e.g. "recipe hf".
        option: An option that changes it as a whole, beside those of its parts; "" if there is none.
        others: The values of that option.
        told: What a file states.
    """
    recipe, changed = changes.apply(base), changes.applied_to(base)
    described, before, stated = parts(recipe), parts(base), changes.stated()
    of_file = told.parts() - stated if told else set[str]()
    found = []
    for name, (members, options) in _ASSUMED.items():
        open_members = [member for member in members if member not in stated | of_file]
        value = ", ".join(described[member] for member in open_members or members)
        if open_members:
            same = all(described[member] == before[member] for member in open_members)
            value += f" ({source}{'' if same else changed})"
        elif told and of_file.intersection(members):
            value += f" ({told.source})"
        every = " or ".join(filter(None, (option, options)))
        found.append(Assumption(name, value, every, tuple(others), confirmed=not open_members))
    for name, value, values in (
        ("channel order", channel_order(recipe), get_args(ChannelOrder)),
        ("scale", pixel_scale(recipe), get_args(PixelScale)),
    ):
        alternatives = tuple(each for each in values if each != value)
        name_of_option = name.replace(" ", "-")
        confirmed = name in stated | of_file
        found.append(Assumption(name_of_option, value, f"--{name_of_option}", alternatives, confirmed=confirmed))
    return tuple(found)


def changed_assumptions(assumptions: Iterable[Assumption], recipe: pb.ImageInput, other: pb.ImageInput) -> set[str]:
    """Return the names of the assumptions about `recipe` that `other` contradicts; none if it contradicts more."""
    ours, theirs = parts(recipe), parts(other)
    still_open = {assumption.name: assumption for assumption in assumptions if not assumption.confirmed}
    found = set()
    for part in (name for name in ours if ours[name] != theirs[name]):
        name = next((name for name, (members, _) in _ASSUMED.items() if part in members), part.replace(" ", "-"))
        # The value names the parts that are not stated.
        if name not in still_open or (name in _ASSUMED and ours[part] not in still_open[name].value):
            return set()
        found.add(name)
    return found
