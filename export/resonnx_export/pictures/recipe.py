"""How pictures become a network's input: the settings of it, and check pictures of the right size.

The published recipes stand here by name; the server's resize (runtime/pictures/images.py) runs what is built here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.pictures.images import Pixels, fit

from resonnx_export.errors import BadInput

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
FILTERS: Final = {
    "bilinear": pb.ImageInput.FILTER_BILINEAR,
    "bicubic": pb.ImageInput.FILTER_BICUBIC,
    "lanczos": pb.ImageInput.FILTER_LANCZOS,
    "nearest": pb.ImageInput.FILTER_NEAREST,
    "box": pb.ImageInput.FILTER_BOX,
}
EXIF_ORIENTATIONS: Final = {
    "ignore": pb.ImageInput.EXIF_ORIENTATION_IGNORE,
    "apply": pb.ImageInput.EXIF_ORIENTATION_APPLY,
}


def image_input(
    size: int,
    *,
    resize_short_side: int | None,
    resize_filter: str = "bilinear",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    exif_orientation: str = "ignore",
) -> pb.ImageInput:
    """Describe a square input.

    Args:
        size: Side in pixels.
        resize_short_side: The short side's length before the centre crop; None stretches the picture to the square.
        resize_filter: A key of FILTERS.
        mean: Of R, G, B scaled to 0..1.
        std: Likewise.
        exif_orientation: A key of EXIF_ORIENTATIONS: what is done about how the camera was held.

    Raises:
        BadInput: An unknown filter, or not three means and three positive deviations.
    """
    if resize_filter not in FILTERS:
        raise BadInput(f"filter {resize_filter!r} is none of {', '.join(FILTERS)}")
    if len(mean) != 3 or len(std) != 3 or not np.isfinite([*mean, *std]).all() or min(std) <= 0:
        raise BadInput("mean and std take three numbers each, for red, green and blue; std must be positive")
    recipe = pb.ImageInput(
        width=size,
        height=size,
        resize=pb.ImageInput.RESIZE_STRETCH,
        filter=FILTERS[resize_filter],
        mean=mean,
        std=std,
        exif_orientation=EXIF_ORIENTATIONS[exif_orientation],
    )
    if resize_short_side is not None:
        recipe.resize = pb.ImageInput.RESIZE_SHORT_SIDE_CROP
        recipe.resize_short_side = resize_short_side
    return recipe


@dataclass(frozen=True)
class InputChanges:
    """What is asked for in place of a layout's own picture recipe; None keeps it. As image_input's arguments.

    Attributes:
        stretch: Resize both sides to the square, even where the layout crops.
    """

    size: int | None = None
    resize_short_side: int | None = None
    stretch: bool = False
    resize_filter: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    exif_orientation: str | None = None

    @property
    def turns_upright(self) -> bool:
        """Whether pictures are turned upright; no layout's own recipe does."""
        return self.exif_orientation == "apply"

    def apply(self, recipe: pb.ImageInput) -> pb.ImageInput:
        """Return the recipe with these changes; where the size alone changes, the short side keeps its ratio.

        Raises:
            BadInput: As image_input, or both ways of resizing are asked for.
        """
        if self.stretch and self.resize_short_side is not None:
            raise BadInput("--stretch and --resize-short-side exclude each other")
        size = self.size or recipe.width
        short_side = self.resize_short_side
        if short_side is None and not self.stretch and recipe.resize == pb.ImageInput.RESIZE_SHORT_SIDE_CROP:
            short_side = size * recipe.resize_short_side // recipe.width
        names = {value: name for name, value in FILTERS.items()}
        return image_input(
            size,
            resize_short_side=short_side,
            resize_filter=self.resize_filter or names[recipe.filter],
            mean=recipe.mean if self.mean is None else self.mean,
            std=recipe.std if self.std is None else self.std,
            exif_orientation=self.exif_orientation or exif_orientation(recipe),
        )


def exif_orientation(recipe: pb.ImageInput) -> str:
    """Return a recipe's key of EXIF_ORIENTATIONS."""
    return "apply" if recipe.exif_orientation == pb.ImageInput.EXIF_ORIENTATION_APPLY else "ignore"


def check_pictures(recipe: pb.ImageInput, count: int, seed: int, samples: Sequence[Image.Image] = ()) -> Pixels:
    """Make pictures to compare answers on: every second one a sample, the rest synthetic and of all kinds.

    Returns:
        uint8 [count, recipe.height, recipe.width, 3]; same arguments, same pictures.
    """
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(len(_KINDS))
    pictures = []
    for i in range(count):
        if samples and i in sample_rows(count):
            pictures.append(fit(samples[(seed + i // 2) % len(samples)], recipe))
        else:
            pictures.append(_KINDS[kinds[i % len(_KINDS)]](rng, recipe.height, recipe.width))
    return np.stack(pictures)


def sample_rows(count: int) -> range:
    """Return which of `count` check pictures are samples, where there are samples."""
    return range(0, count, 2)


def smooth(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Make a picture uint8 [height,width,3] with the soft colours and edges of a blurred photograph."""
    coarse = rng.integers(0, 256, (7, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _noise(rng: np.random.Generator, height: int, width: int) -> Pixels:
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def _black(rng: np.random.Generator, height: int, width: int) -> Pixels:
    return np.zeros((height, width, 3), np.uint8)


def _white(rng: np.random.Generator, height: int, width: int) -> Pixels:
    return np.full((height, width, 3), 255, np.uint8)


def _one_bright_pixel(rng: np.random.Generator, height: int, width: int) -> Pixels:
    picture = _black(rng, height, width)
    picture[rng.integers(height), rng.integers(width)] = 255
    return picture


def _checkerboard(rng: np.random.Generator, height: int, width: int) -> Pixels:
    board = (np.add.outer(np.arange(height), np.arange(width)) % 2 * 255).astype(np.uint8)
    return np.repeat(board[:, :, None], 3, axis=2)


def _stripes(rng: np.random.Generator, height: int, width: int) -> Pixels:
    phase = np.linspace(0, rng.uniform(10, 60), height)[:, None, None] + rng.uniform(0, 6, 3)
    return np.broadcast_to(127.5 + 127.5 * np.sin(phase), (height, width, 3)).astype(np.uint8)


_KINDS: Final = (smooth, _noise, _black, smooth, _white, _one_bright_pixel, _checkerboard, _stripes)
