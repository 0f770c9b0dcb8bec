"""Decodes JPEG files by libjpeg-turbo, whole or at a fraction of their size: those that it takes without complaint."""

from typing import Final

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from resonnx_server.errors import BadImage
from resonnx_server.runtime.pictures.file_kinds import damaged
from resonnx_server.runtime.pictures.markers import MAX_SCANS, scans

# libjpeg-turbo's warning, told when all that is there has been decoded.
_INCOMPLETE: Final = "Premature end of JPEG file"
_LEFT_TO_PILLOW: Final = ("CMYK", "YCCK")


def check_scans(encoded: bytes, field: str) -> None:
    """Raise BadImage if a JPEG file has more scans than encoders make."""
    if (found := scans(encoded)) > MAX_SCANS:
        raise BadImage(field, f"a JPEG file of {found} scans, more than {MAX_SCANS}")


def decode_jpeg(encoded: bytes, divisor: int, size: tuple[int, int], field: str) -> Image.Image | None:
    """Decode a JPEG file; None for what Pillow must judge.

    The pixels equal Pillow's: both run libjpeg-turbo with the accurate DCT and smooth upsampling, and reduce a picture
    by leaving the high frequencies of its blocks out.

    Args:
        encoded: The file.
        divisor: By how much to reduce it: 1, 2, 4 or 8.
        size: Width and height of the whole, as its header tells.
        field: For messages.

    Returns:
        An RGB image; a reduced one's sides are rounded up.

    Raises:
        BadImage: It is cut off.
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
