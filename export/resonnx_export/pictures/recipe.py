"""How picture files become a network's input: the recipe, the options that change it, and the training code's version.

A new picture option is a field of InputChanges, and its use in this module alone.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import typer
from PIL import ExifTags, Image, ImageOps
from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_export.errors import BadInput

FilterName = Literal["bilinear", "bicubic", "lanczos", "nearest", "box"]
ExifOrientation = Literal["ignore", "apply"]

Pixels = npt.NDArray[np.uint8]

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
_EXAMPLES_SEED: Final = 1000


def image_input(
    size: int,
    *,
    resize_short_side: int | None,
    resize_filter: str = "bilinear",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    exif_orientation: ExifOrientation = "ignore",
) -> pb.ImageInput:
    """Return the recipe of a square input.

    Args:
        size: Side in pixels.
        resize_short_side: Length of the short side before the centre crop, in pixels; None resizes both sides to the
            square.
        resize_filter: A FilterName.
        mean: Subtracted from R, G, B scaled to 0..1.
        std: Divides R, G, B after that.
        exif_orientation: Whether pictures are first turned upright by their EXIF orientation.

    Raises:
        BadInput: An unknown filter, or not three finite means and three positive deviations.
    """
    if resize_filter not in get_args(FilterName):
        raise BadInput(f"filter {resize_filter!r} is none of {', '.join(get_args(FilterName))}")
    if len(mean) != 3 or len(std) != 3 or not np.isfinite([*mean, *std]).all() or min(std) <= 0:
        raise BadInput("mean and std take three numbers each, for red, green and blue; std must be positive")
    crops = resize_short_side is not None
    return pb.ImageInput(
        width=size,
        height=size,
        resize=pb.ImageInput.RESIZE_SHORT_SIDE_CROP if crops else pb.ImageInput.RESIZE_STRETCH,
        resize_short_side=resize_short_side,
        filter=f"FILTER_{resize_filter.upper()}",
        mean=mean,
        std=std,
        exif_orientation=f"EXIF_ORIENTATION_{exif_orientation.upper()}",
    )


def _channels(option: str, text: str) -> Any:
    """Return an option with help `text` that takes three numbers, or one for all three channels."""

    def parse(given: str) -> list[float]:
        try:
            numbers = [float(number) for number in given.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 3):
            raise BadInput(f"{option} {given!r} is not three numbers, R,G,B, nor one for all of them")
        return numbers * 3 if len(numbers) == 1 else numbers

    return typer.Option(parser=parse, metavar="R,G,B", help=f"{text}; or one number for all.")


@dataclass(frozen=True)
class InputChanges:
    """Options that change a layout's picture recipe; None keeps the recipe's value."""

    size: Annotated[int | None, typer.Option(min=1, metavar="PIXELS", help="Side of the input picture, in pixels.")] = (
        None
    )
    resize_short_side: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Resize the short side to this, then crop the centre.")
    ] = None
    stretch: Annotated[bool, typer.Option("--stretch", help="Resize both sides to the input instead.")] = False
    resize_filter: Annotated[FilterName | None, typer.Option("--filter", help="Pillow's filter for resizing.")] = None
    exif_orientation: Annotated[
        ExifOrientation | None,
        typer.Option(
            help="apply: turn pictures upright by their EXIF orientation first, as exif_transpose does.  "
            "[default: ignore, as in torchvision]"
        ),
    ] = None
    mean: Annotated[Sequence[float] | None, _channels("--mean", "Mean subtracted from pixels scaled to 0..1")] = None
    std: Annotated[Sequence[float] | None, _channels("--std", "Standard deviation that then divides them")] = None

    def apply(self, recipe: pb.ImageInput) -> pb.ImageInput:
        """Return the recipe with these changes; where the size alone changes, the short side keeps its ratio.

        Raises:
            BadInput: As image_input, or both ways of resizing are given.
        """
        if self.stretch and self.resize_short_side is not None:
            raise BadInput("--stretch and --resize-short-side exclude each other")
        size = self.size or recipe.width
        short_side = self.resize_short_side
        if short_side is None and not self.stretch and recipe.resize == pb.ImageInput.RESIZE_SHORT_SIDE_CROP:
            short_side = size * recipe.resize_short_side // recipe.width
        return image_input(
            size,
            resize_short_side=short_side,
            resize_filter=self.resize_filter or _filter_name(recipe),
            mean=recipe.mean if self.mean is None else self.mean,
            std=recipe.std if self.std is None else self.std,
            exif_orientation=self.exif_orientation or _exif_orientation(recipe),
        )

    def decoding(self) -> pb.ImageInput:
        """Return the part of the recipe that decoding depends on, before the layout is known."""
        return pb.ImageInput(exif_orientation=f"EXIF_ORIENTATION_{(self.exif_orientation or 'ignore').upper()}")


def describe(recipe: pb.ImageInput) -> str:
    """Describe a recipe in one line."""
    how = "stretched" if recipe.resize == pb.ImageInput.RESIZE_STRETCH else f"short side {recipe.resize_short_side}"
    mean, std = (",".join(f"{number:g}" for number in values) for values in (recipe.mean, recipe.std))
    exif = "applied" if _exif_orientation(recipe) == "apply" else "ignored"
    return (
        f"{recipe.width}x{recipe.height}, {how}, {_filter_name(recipe)}, mean {mean}, std {std}, "
        f"EXIF orientation {exif}"
    )


def _filter_name(recipe: pb.ImageInput) -> str:
    return pb.ImageInput.Filter.Name(recipe.filter).removeprefix("FILTER_").lower()


def _exif_orientation(recipe: pb.ImageInput) -> ExifOrientation:
    return "apply" if recipe.exif_orientation == pb.ImageInput.EXIF_ORIENTATION_APPLY else "ignore"


def training_pixels(file: bytes, recipe: pb.ImageInput) -> Pixels:
    """Decode and resize a picture file as training code does; returns uint8 [H,W,3].

    Written apart from the server's runtime/pictures/images.py, so that golden examples can show a server's mistake.
    Stretch: `imresize(image, (H, W))`. Short side: torchvision's `Resize(short_side)` and `CenterCrop((H, W))`
    (torchvision/transforms/functional.py: `_compute_resized_output_size` and `center_crop`).
    """
    opened = Image.open(io.BytesIO(file))
    upright = ImageOps.exif_transpose(opened) if _exif_orientation(recipe) == "apply" else opened
    image = upright.convert("RGB")
    resample = Image.Resampling[_filter_name(recipe).upper()]
    if recipe.resize == pb.ImageInput.RESIZE_STRETCH:
        return np.asarray(image.resize((recipe.width, recipe.height), resample))
    short, long = sorted(image.size)
    new_short, new_long = recipe.resize_short_side, int(recipe.resize_short_side * long / short)
    image = image.resize((new_short, new_long) if image.width <= image.height else (new_long, new_short), resample)
    left, top = round((image.width - recipe.width) / 2), round((image.height - recipe.height) / 2)
    return np.asarray(image.crop((left, top, left + recipe.width, top + recipe.height)))


def example_files(recipe: pb.ImageInput) -> tuple[bytes, ...]:
    """Make picture files of odd sizes, larger and smaller than the input, affected by every picture option."""
    rng = np.random.default_rng(_EXAMPLES_SEED)
    width, height = recipe.width, recipe.height
    wide = Image.fromarray(smooth(rng, height + 37, 2 * width + 53))
    tall = Image.fromarray(smooth(rng, 2 * height + 91, width + 29))
    small = Image.fromarray(smooth(rng, height // 2 + 3, width // 2 + 6))
    small.putalpha(Image.fromarray(rng.integers(0, 256, (small.height, small.width), np.uint8)))
    # Orientation 6, as of a phone held upright.
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return (
        _save(wide, "JPEG", quality=90),
        _save(tall, "JPEG", quality=75, progressive=True, exif=exif),
        _save(small, "PNG"),
    )


def _save(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def smooth(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Make a picture uint8 [height,width,3] that resembles a blurred photograph."""
    coarse = rng.integers(0, 256, (7, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
