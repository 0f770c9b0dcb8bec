"""The picture recipes that the public checkpoints were evaluated with, by name, and the one that each layout suggests.

A checkpoint does not name its recipe, and a wrong one costs accuracy silently; so the choice is always printed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_export.pictures.recipe import InputChanges, describe, image_input

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


@dataclass(frozen=True)
class RecipeChoice:
    """A recipe of RECIPES, or the one that the layout suggests (None), with changes."""

    name: RecipeName | None = None
    changes: InputChanges = field(default_factory=InputChanges)

    def for_layout(self, layout: str) -> tuple[pb.ImageInput, str]:
        """Return the recipe, and a line that describes it. Raises BadInput as InputChanges.apply."""
        name = self.name or _SUGGESTED.get(layout, _DEFAULT)
        recipe = self.changes.apply(RECIPES[name])
        changed = "" if recipe == RECIPES[name] else ", with the changes given"
        assumed = "" if self.name else f"; assumed from the layout: --recipe chooses among {', '.join(RECIPES)}"
        return recipe, f"pictures: {describe(recipe)} (recipe {name}{changed}{assumed})"
