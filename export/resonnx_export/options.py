"""What the commands may be given: each option's type, and what --help says of it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from resonnx_export import __version__
from resonnx_export.errors import BadInput


class Filter(StrEnum):
    """Pillow's filters for resizing."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"
    NEAREST = "nearest"
    BOX = "box"


class ExifOrientation(StrEnum):
    """What is done about EXIF's orientation."""

    APPLY = "apply"
    IGNORE = "ignore"


class Recipe(StrEnum):
    """How a classifier's pictures were prepared."""

    TORCHVISION_V1 = "torchvision-v1"
    TORCHVISION_V2 = "torchvision-v2"
    TIMM_TV = "timm-tv"
    TIMM_A1 = "timm-a1"
    TIMM_A1_288 = "timm-a1-288"
    HF = "hf"
    CIFAR = "cifar"
    CIFAR_IMAGENET = "cifar-imagenet"


class Activation(StrEnum):
    """What makes a classifier's scores."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    NONE = "none"


class Precision(StrEnum):
    """What a network's convolutions are stored in."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class DecoderPrecision(StrEnum):
    """What a captioner's decoder is stored in."""

    FP32 = "fp32"
    INT8_RESCORED = "int8-rescored"


Repository = Annotated[Path, typer.Option(metavar="FOLDER", help="The model repository; made if it does not exist.")]
Name = Annotated[str, typer.Option(metavar="NAME", help="The model's name in the repository.")]
Version = Annotated[int | None, typer.Option(min=1, metavar="N", help="The next free number if not given.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the version if it exists.")]
Size = Annotated[int | None, typer.Option(min=1, metavar="PIXELS", help="Side of the input picture, in pixels.")]
ShortSide = Annotated[
    int | None, typer.Option(metavar="PIXELS", help="Resize the short side to this, then crop the centre.")
]
Stretch = Annotated[bool, typer.Option("--stretch", help="Resize both sides to the input instead.")]
ResizeFilter = Annotated[Filter | None, typer.Option("--filter", help="Pillow's filter for resizing.")]
ExifChoice = Annotated[
    ExifOrientation | None,
    typer.Option(
        "--exif-orientation",
        help="apply: pictures are turned upright by their EXIF orientation first, as where training code calls "
        "exif_transpose.  [default: ignore, as torchvision does]",
    ),
]
Mean = Annotated[
    str | None, typer.Option(metavar="R,G,B", help="Mean subtracted from pixels scaled to 0..1; or one number for all.")
]
Std = Annotated[
    str | None,
    typer.Option(metavar="R,G,B", help="Standard deviation that they are then divided by; or one number for all."),
]
AllowReduced = Annotated[
    bool, typer.Option("--allow-reduced/--no-allow-reduced", help="Let providers compute in bf16, fp16 and TF32.")
]
StoredPrecision = Annotated[
    Precision,
    typer.Option("--precision", help="Precision of the convolutions, weights and arithmetic."),
]
StoredDecoderPrecision = Annotated[
    DecoderPrecision,
    typer.Option(
        "--decoder-precision",
        help="Precision of the decoder. int8-rescored: its output layer in int8, and the 64 best words scored "
        "again from fp32 weights. Greedy words stay the same; beams and samples may change a little. For servers on "
        "the CPU with few callers at once: a step of one caption takes a third (LSTM) to four fifths (attention) of "
        "the time, a step of 16 or more about as long as in fp32. The file grows, as the fp32 weights stay: by up to "
        "30 %.",
    ),
]
Pictures = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Pictures that the model is meant for, for the check and the report; a few are kept beside the model.  "
        "[default: synthetic ones]",
    ),
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="For int8: pictures that the model is meant for, 8 at least, better 64 or more; a classifier's may be in "
        "folders named as labels.",
    ),
]
MinAgreement = Annotated[
    float,
    typer.Option(
        min=0, max=100, metavar="PERCENT", help="int8: least share of held-back pictures answered as in fp32, in %."
    ),
]
MaxAccuracyDrop = Annotated[
    float,
    typer.Option(
        min=0,
        max=100,
        metavar="POINTS",
        help="int8: greatest loss of accuracy on labelled held-back pictures, in points.",
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"resonnx-export {__version__}")
        raise typer.Exit


ShowVersion = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]


def numbers(text: str | None, option: str) -> list[float] | None:
    """Read three numbers, or one for all three channels.

    Raises:
        BadInput: They are neither.
    """
    if text is None:
        return None
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3):
        raise BadInput(f"{option} {text!r} is not three numbers, R,G,B, nor one for all of them")
    return numbers * 3 if len(numbers) == 1 else numbers
