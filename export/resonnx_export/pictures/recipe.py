"""How picture files become a network's input: the recipe, the options that change it, and the training code's version.

A new picture option is a field of InputChanges, and its use in this module; examples.py has files that it affects.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image, ImageOps
from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_export.errors import BadInput

FilterName = Literal["bilinear", "bicubic", "lanczos", "nearest", "box"]
ExifOrientation = Literal["ignore", "apply"]
ChannelOrder = Literal["rgb", "bgr"]
# The greatest value of a pixel before mean and deviation are applied.
PixelScale = Literal["1", "255"]
# Fields of InputChanges that change how files are read and resized, their options and values.
FILE_CHOICES: Final[Sequence[tuple[str, str, Sequence[Any]]]] = (
    ("resize_filter", "--filter", get_args(FilterName)),
    ("exif_orientation", "--exif-orientation", get_args(ExifOrientation)),
)

Pixels = npt.NDArray[np.uint8]

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


class Size(NamedTuple):
    """Height and width of a picture, in pixels, in the order of torch and torchvision."""

    height: int
    width: int

    def __str__(self) -> str:
        text = f"{self.height}x{self.width}"
        return text if self.height == self.width else f"{text} (height x width)"


def image_input(
    size: int | Size,
    *,
    resize_short_side: int | None,
    resize_filter: str = "bilinear",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    exif_orientation: ExifOrientation = "ignore",
    channel_order: ChannelOrder = "rgb",
    scale: PixelScale = "1",
) -> pb.ImageInput:
    """Return a recipe.

    Args:
        size: The input's size; a number is the side of a square, in pixels.
        resize_short_side: Length of the short side before the centre crop, in pixels; None resizes both sides to the
            input's.
        resize_filter: A FilterName.
        mean: Subtracted from the channels in their order, in units of `scale`.
        std: Divides the channels after that, likewise.
        exif_orientation: Whether pictures are first turned upright by their EXIF orientation.
        channel_order: The order of the network's channels.
        scale: "1" divides pixels by 255 before the mean is subtracted, "255" does not.

    Raises:
        BadInput: An unknown filter, a short side below a side of the input, or not three finite means and three
            positive deviations in units of `scale`.
    """
    height, width = size if isinstance(size, Size) else (size, size)
    if resize_filter not in get_args(FilterName):
        raise BadInput(f"filter {resize_filter!r} is none of {', '.join(get_args(FilterName))}")
    if len(mean) != 3 or len(std) != 3 or not np.isfinite([*mean, *std]).all() or min(std) <= 0:
        raise BadInput("mean and std take three numbers each, one for each channel; std must be positive")
    if scale == "1" and max(mean) > 1:
        raise BadInput(
            f"mean {_numbers(mean)} exceeds 1, the greatest pixel after division by 255; if the training code did not "
            "divide pixels by 255, add --scale 255"
        )
    crops = resize_short_side is not None
    if resize_short_side is not None and resize_short_side < max(height, width):
        raise BadInput(
            f"--resize-short-side {resize_short_side} is less than the crop's longer side of {max(height, width)}"
        )
    return pb.ImageInput(
        width=width,
        height=height,
        resize=pb.ImageInput.RESIZE_SHORT_SIDE_CROP if crops else pb.ImageInput.RESIZE_STRETCH,
        resize_short_side=resize_short_side,
        filter=f"FILTER_{resize_filter.upper()}",
        mean=mean,
        std=std,
        exif_orientation=f"EXIF_ORIENTATION_{exif_orientation.upper()}",
        channel_order=f"CHANNEL_ORDER_{channel_order.upper()}",
        pixel_scale=int(scale),
    )


def _parse_size(given: str) -> Size:
    sides = given.lower().split("x")
    if len(sides) > 2 or not all(re.fullmatch("[1-9][0-9]{0,5}", side) for side in sides):
        raise BadInput(f"--size {given!r} is neither a number of pixels nor HEIGHTxWIDTH, for example 256x128")
    return Size(int(sides[0]), int(sides[-1]))


def _channels(option: str, text: str) -> Any:
    """Return an option with help `text` that takes three numbers, or one for all three channels."""

    def parse(given: str) -> list[float]:
        try:
            numbers = [float(number) for number in given.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 3):
            raise BadInput(f"{option} {given!r} is not three numbers, one for each channel, nor one for all of them")
        return numbers * 3 if len(numbers) == 1 else numbers

    return typer.Option(parser=parse, metavar="A,B,C", help=f"{text}; or one number for all.")


@dataclass(frozen=True)
class InputChanges:
    """Options that change a layout's picture recipe; None keeps the recipe's value."""

    size: Annotated[
        Size | None,
        typer.Option(
            parser=_parse_size,
            metavar="PIXELS",
            help="Size of the input picture: a square's side, or HEIGHTxWIDTH: 256x128 is 256 high and 128 wide. "
            "If not square, pictures are stretched to it unless --resize-short-side is given.",
        ),
    ] = None
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
    channel_order: Annotated[
        ChannelOrder | None,
        typer.Option(
            help="Order of the network's channels; bgr for OpenCV and Caffe. Clients send RGB always.  [default: rgb]"
        ),
    ] = None
    scale: Annotated[
        PixelScale | None,
        typer.Option(
            help="Greatest pixel before mean and std: 1 divides by 255, 255 does not; then mean is 0 and std 1 unless "
            "given.  [default: 1]"
        ),
    ] = None
    mean: Annotated[
        Sequence[float] | None,
        _channels("--mean", "Mean that is subtracted, as in the training code: in the order and scale of its pixels"),
    ] = None
    std: Annotated[Sequence[float] | None, _channels("--std", "Standard deviation that then divides, likewise")] = None

    def apply(self, recipe: pb.ImageInput) -> pb.ImageInput:
        """Return the recipe with these changes.

        Where the size alone changes, the short side keeps its ratio to the longer side of the crop; an input that is no
        longer square is stretched. Where the scale changes, the recipe's mean and deviation do not apply.

        Raises:
            BadInput: As image_input, or both ways of resizing are given.
        """
        if self.stretch and self.resize_short_side is not None:
            raise BadInput("--stretch and --resize-short-side exclude each other")
        old = Size(recipe.height, recipe.width)
        size = self.size or old
        becomes_oblong = old.height == old.width and size.height != size.width
        short_side = self.resize_short_side
        crops = recipe.resize == pb.ImageInput.RESIZE_SHORT_SIDE_CROP
        if crops and short_side is None and not self.stretch and not becomes_oblong:
            short_side = max(size) * recipe.resize_short_side // max(old)
        scale = self.scale or pixel_scale(recipe)
        mean, std = (recipe.mean, recipe.std) if scale == pixel_scale(recipe) else ((0.0,) * 3, (1.0,) * 3)
        return image_input(
            size,
            resize_short_side=short_side,
            resize_filter=self.resize_filter or _filter_name(recipe),
            mean=mean if self.mean is None else self.mean,
            std=std if self.std is None else self.std,
            exif_orientation=self.exif_orientation or _exif_orientation(recipe),
            channel_order=self.channel_order or channel_order(recipe),
            scale=scale,
        )

    def stated(self) -> set[str]:
        """Return the names, as in `parts`, of what these options state."""
        given = {
            "size": self.size,
            "resize": self.stretch or self.resize_short_side,
            "filter": self.resize_filter,
            "EXIF orientation": self.exif_orientation,
            "channel order": self.channel_order,
            "scale": self.scale,
            "mean": self.mean,
            "std": self.std,
        }
        return {name for name, value in given.items() if value}

    def applied_to(self, recipe: pb.ImageInput) -> str:
        """Return how these options change a recipe, as words that follow its name; "" if they do not."""
        if (changed := self.apply(recipe)) == recipe:
            return ""
        options = [_option(each.name, value) for each in fields(self) if (value := getattr(self, each.name))]
        given = f" with {', '.join(options)}"
        if pixel_scale(changed) == pixel_scale(recipe):
            return given
        dropped = [name for name, value in (("mean", self.mean), ("std", self.std)) if value is None]
        return given + (f", without its {' and '.join(dropped)}" if dropped else "")

    def decoding(self) -> pb.ImageInput:
        """Return the part of the recipe that decoding depends on, before the layout is known."""
        return pb.ImageInput(exif_orientation=f"EXIF_ORIENTATION_{(self.exif_orientation or 'ignore').upper()}")


def _option(field: str, value: Any) -> str:
    """Return an option of InputChanges as it is typed."""
    name = "--filter" if field == "resize_filter" else f"--{field.replace('_', '-')}"
    if isinstance(value, Size):
        return f"{name} {value.height}" if value.height == value.width else f"{name} {value.height}x{value.width}"
    return name if value is True else f"{name} {value if isinstance(value, int | str) else _numbers(value)}"


def parts(recipe: pb.ImageInput) -> Mapping[str, str]:
    """Describe each part of a recipe by its name."""
    crops = recipe.resize == pb.ImageInput.RESIZE_SHORT_SIDE_CROP
    return {
        "size": str(Size(recipe.height, recipe.width)),
        "resize": f"short side {recipe.resize_short_side}" if crops else "stretched",
        "filter": _filter_name(recipe),
        "channel order": channel_order(recipe).upper(),
        "scale": f"pixels 0..{pixel_scale(recipe)}",
        "mean": f"mean {_numbers(recipe.mean)}",
        "std": f"std {_numbers(recipe.std)}",
        "EXIF orientation": f"EXIF orientation {'applied' if _exif_orientation(recipe) == 'apply' else 'ignored'}",
    }


def describe(recipe: pb.ImageInput) -> str:
    """Describe a recipe in one line."""
    return ", ".join(parts(recipe).values())


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in values)


def _filter_name(recipe: pb.ImageInput) -> str:
    return pb.ImageInput.Filter.Name(recipe.filter).removeprefix("FILTER_").lower()


def _exif_orientation(recipe: pb.ImageInput) -> ExifOrientation:
    return "apply" if recipe.exif_orientation == pb.ImageInput.EXIF_ORIENTATION_APPLY else "ignore"


def channel_order(recipe: pb.ImageInput) -> ChannelOrder:
    """Return the order of the network's channels."""
    return "bgr" if recipe.channel_order == pb.ImageInput.CHANNEL_ORDER_BGR else "rgb"


def pixel_scale(recipe: pb.ImageInput) -> PixelScale:
    """Return the greatest pixel before the mean is subtracted."""
    return "255" if recipe.pixel_scale == 255 else "1"


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
