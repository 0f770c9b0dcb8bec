"""JPEG decoders, from bytes to an RGB image; some only where they are installed."""

import importlib
import io
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import numpy as np
import simplejpeg
from PIL import Image, features
from resonnx_server.runtime.pictures import images

Decoder = Callable[[bytes], Image.Image]

SERVER: Final = "server"
_OPTIONAL: Final = ("opencv-python-headless", "imagecodecs", "PyTurboJPEG")


def by_pillow(file: bytes) -> Image.Image:
    """Decode as the training recipe does."""
    return Image.open(io.BytesIO(file)).convert("RGB")


def decoders() -> dict[str, Decoder]:
    """Return those that are here, by name; tells on stderr which are not."""
    found: dict[str, Decoder] = {
        SERVER: images.decode,
        "simplejpeg": _by_simplejpeg,
        "fast DCT": partial(_by_simplejpeg, fastdct=True),
        "fast upsampling": partial(_by_simplejpeg, fastupsample=True),
        "both": partial(_by_simplejpeg, fastdct=True, fastupsample=True),
        "Pillow": by_pillow,
    }
    if cv2 := _installed("cv2"):
        cv2.setNumThreads(1)
        found["OpenCV"] = partial(_by_opencv, cv2)
    if imagecodecs := _installed("imagecodecs"):
        found["imagecodecs"] = partial(_by_imagecodecs, imagecodecs)
    if turbojpeg := _installed("turbojpeg"):
        try:
            found["PyTurboJPEG"] = partial(_by_turbojpeg, turbojpeg.TurboJPEG(), turbojpeg.TJPF_RGB)
        except RuntimeError as error:
            print(f"turbojpeg: left out: {str(error).splitlines()[0]}", file=sys.stderr)
    return found


def versions() -> dict[str, str]:
    """Return the packages' versions, and Pillow's libjpeg-turbo."""
    found = {name: version(name) for name in ("simplejpeg", "pillow")}
    found["Pillow's libjpeg-turbo"] = features.version("libjpeg_turbo") or "none"
    for name in _OPTIONAL:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _installed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        print(f"{module}: not installed, left out", file=sys.stderr)
        return None


def _by_simplejpeg(file: bytes, **settings: bool) -> Image.Image:
    return Image.fromarray(simplejpeg.decode_jpeg(file, "RGB", **settings))


def _by_opencv(cv2: Any, file: bytes) -> Image.Image:
    decoded = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if decoded is None:
        raise ValueError("OpenCV decodes no such file")
    return Image.fromarray(decoded)


def _by_imagecodecs(imagecodecs: Any, file: bytes) -> Image.Image:
    return Image.fromarray(imagecodecs.jpeg8_decode(file, outcolorspace="RGB"))


def _by_turbojpeg(handle: Any, rgb: int, file: bytes) -> Image.Image:
    return Image.fromarray(handle.decode(file, pixel_format=rgb))
