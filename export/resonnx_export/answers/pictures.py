"""The network's pixels for recorded pictures, and their difference from the user's own preprocessing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import BadImage
from resonnx_server.runtime.pictures.images import Pixels, load
from resonnx_server.runtime.pictures.options import PictureOptions

from resonnx_export.answers.recorded import Answers
from resonnx_export.errors import BadInput
from resonnx_export.pictures.recipe import Size, pixel_scale, training_pixels
from resonnx_export.proof.reference import normalise, normalise_grey


def pixels_of(answers: Answers, recipe: pb.ImageInput) -> Any:
    """Return uint8 [N,H,W,3]: the recorded pixels, or the recorded files as a server resizes them; or Clips.

    Raises:
        BadInput: The pixels or the recorded inputs are not of the recipe's size, or a file cannot be decoded.
    """
    size = Size(recipe.height, recipe.width)
    recorded = answers.pixels if answers.clips is None else answers.clips.frames
    if recorded is not None:
        if recorded.ndim == 4 and (found := Size(*recorded.shape[1:3])) != size:
            raise BadInput(
                f"{answers.name}: pixels are {found}, and the network's input is {size}; give --size "
                f"{typed_size(found)}, or record pixels of the input's size"
            )
        return answers.clips or recorded
    if answers.inputs is not None and (found := Size(*answers.inputs.shape[2:])) != size:
        raise BadInput(
            f"{answers.name}: your preprocessing made inputs of {found}, and the network's input is {size}; export "
            f"with --size {typed_size(found)}, and with --resize-short-side or --stretch as in your preprocessing"
        )
    options = PictureOptions(recipe)
    pixels = []
    for number, file in enumerate(answers.images):
        try:
            pixels.append(load(file, options, f"{answers.name}: picture {number} of images"))
        except BadImage as error:
            raise BadInput(str(error)) from None
    return np.stack(pixels)


def typed_size(size: Size) -> str:
    """Return a size as --size takes it."""
    return f"{size.height}" if size.height == size.width else f"{size.height}x{size.width}"


def preprocessing_note(answers: Answers, pixels: Pixels, recipe: pb.ImageInput) -> str:
    """Describe how far `pixels` uint8 [N,H,W,3] of the recorded files are from the user's own; "" without files."""
    if not answers.images:
        return ""
    if answers.inputs is None:
        own = np.stack([training_pixels(file, recipe) for file in answers.images])
        differences: Sequence[npt.NDArray[Any]] = [np.abs(pixels.astype(np.int16) - own)]
        whose = "Pillow's"
    else:
        differences = _input_differences(answers, pixels, recipe)
        whose = "your preprocessing's"
    greatest = max(float(each.max()) for each in differences)
    mean = sum(float(each.sum()) for each in differences) / sum(each.size for each in differences)
    return f"pixels differ from {whose} by at most {greatest:.2g} of 255, {mean:.2g} on average"


def _input_differences(answers: Answers, pixels: Pixels, recipe: pb.ImageInput) -> Sequence[npt.NDArray[Any]]:
    """Return |difference| of each picture's input [C,H,W], in units of a pixel of 0 to 255."""
    assert answers.inputs is not None
    grey = answers.inputs.shape[1] == 1
    std = np.array(recipe.std, np.float32)[: 1 if grey else 3, None, None]
    unit = std if pixel_scale(recipe) == "255" else std * 255
    rows = []
    for row, recorded in enumerate(answers.inputs):
        picture = pixels[row : row + 1]
        ours = (normalise_grey(picture, recipe) if grey else normalise(picture, recipe)).numpy()[0]
        rows.append(np.abs(ours - recorded) * unit)
    return rows
