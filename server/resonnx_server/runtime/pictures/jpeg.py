"""Decodes JPEG files with libjpeg-turbo at full or reduced size; Pillow decodes those with warnings."""

from typing import Final

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from resonnx_server.errors import BadImage
from resonnx_server.runtime.pictures.file_kinds import damaged
from resonnx_server.runtime.pictures.markers import MAX_SCANS, scans

# libjpeg-turbo's warning at the end of a truncated file.
_INCOMPLETE: Final = "Premature end of JPEG file"
_LEFT_TO_PILLOW: Final = ("CMYK", "YCCK")


def check_scans(encoded: bytes, field: str) -> None:
    """Raise BadImage if a JPEG file has more than MAX_SCANS scans."""
    if (found := scans(encoded)) > MAX_SCANS:
        raise BadImage(field, f"a JPEG file of {found} scans, more than {MAX_SCANS}")


def decode_jpeg(encoded: bytes, divisor: int, size: tuple[int, int], field: str) -> Image.Image | None:
    """Decode a JPEG file; None if Pillow must try it.

    The pixels equal Pillow's: both use libjpeg-turbo with the accurate DCT and smooth upsampling, and drop high
    frequencies to reduce a picture.

    Args:
        encoded: The file.
        divisor: Reduction of both sides: 1, 2, 4 or 8.
        size: Full width and height from the header.
        field: The request's field, for messages.

    Returns:
        An RGB image; sides of a reduced one are rounded up.

    Raises:
        BadImage: The file is truncated.
    """
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        return None
    if colorspace in _LEFT_TO_PILLOW or (width, height) != size:
        return None
    least = (0, 0) if divisor == 1 else (-(-width // divisor), -(-height // divisor))
    try:
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded, "RGB", min_width=least[0], min_height=least[1])
    except ValueError as error:
        if str(error) == _INCOMPLETE:
            # Pillow would refuse it too, after the same work.
            raise damaged(encoded, field) from None
        return None
    return Image.fromarray(pixels)
