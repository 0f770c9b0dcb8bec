"""Picture recipes and class names from the configurations of timm and of Hugging Face's image processors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_export.errors import BadInput
from resonnx_export.pictures.recipe import IMAGENET_MEAN, IMAGENET_STD, FilterName, PixelScale, Size, image_input

# Pillow's numbers of filters.
_RESAMPLE: Final[Mapping[object, FilterName]] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
# ConvNextImageProcessor crops below this size only, and by this share if the file gives none.
_CONVNEXT_STRETCHES_FROM: Final = 384
_CONVNEXT_CROP: Final = 224 / 256
_TIMM_CROP: Final = 0.875


@dataclass(frozen=True)
class ConfiguredRecipe:
    """A recipe that belongs to a model.

    Attributes:
        source: Where it was read, e.g. "preprocessor_config.json".
        settled: It is that of these weights, not only of published weights of the same architecture.
    """

    recipe: pb.ImageInput
    source: str
    settled: bool


def timm_recipe(config: Mapping[str, Any]) -> pb.ImageInput | None:
    """Return the recipe of timm's pretrained_cfg for evaluation; None if it has none, or one that is not supported."""
    try:
        _, height, width = config["input_size"]
        crop = float(config.get("crop_pct") or _TIMM_CROP)
        mode = config.get("crop_mode") or "center"
        if config.get("interpolation") not in get_args(FilterName) or mode not in ("center", "squash"):
            return None
        if mode == "squash" and crop != 1:
            return None
        return image_input(
            Size(int(height), int(width)),
            resize_short_side=None if mode == "squash" else math.floor(max(height, width) / crop),
            resize_filter=config["interpolation"],
            mean=config.get("mean") or IMAGENET_MEAN,
            std=config.get("std") or IMAGENET_STD,
        )
    except (KeyError, TypeError, ValueError, BadInput):
        return None


def hugging_face_recipe(config: Mapping[str, Any]) -> pb.ImageInput | None:
    """Return the recipe of a preprocessor_config.json; None if it is not of a known form.

    Known are ConvNext's processor (crop_pct), those with crop_size, and those that stretch to height and width.
    """
    try:
        if isinstance(config.get("pretrained_cfg"), Mapping):
            return timm_recipe(config["pretrained_cfg"])
        size, short_side = _hugging_face_size(config)
        normalises = config.get("do_normalize", True)
        return image_input(
            size,
            resize_short_side=short_side,
            resize_filter=_RESAMPLE[config.get("resample", 3 if "crop_pct" in config else 2)],
            mean=config.get("image_mean", IMAGENET_MEAN) if normalises else (0, 0, 0),
            std=config.get("image_std", IMAGENET_STD) if normalises else (1, 1, 1),
            scale=_scale(config),
        )
    except (KeyError, TypeError, ValueError, BadInput):
        return None


def _hugging_face_size(config: Mapping[str, Any]) -> tuple[Size, int | None]:
    """Return the input's size and the short side before the crop, None if pictures are stretched."""
    size = config["size"]
    short = size if isinstance(size, int) else size.get("shortest_edge")
    if "crop_pct" in config or str(config.get("image_processor_type", "")).startswith("ConvNext"):
        side = int(short)
        crop = float(config.get("crop_pct") or _CONVNEXT_CROP)
        return Size(side, side), int(side / crop) if side < _CONVNEXT_STRETCHES_FROM else None
    if config.get("do_center_crop", "crop_size" in config):
        crop_size = config["crop_size"]
        sides = (crop_size, crop_size) if isinstance(crop_size, int) else (crop_size["height"], crop_size["width"])
        return Size(*map(int, sides)), int(short)
    if isinstance(size, int):
        return Size(size, size), None
    return Size(int(size["height"]), int(size["width"])), None


def _scale(config: Mapping[str, Any]) -> PixelScale:
    if not config.get("do_rescale", True):
        return "255"
    if abs(float(config.get("rescale_factor", 1 / 255)) * 255 - 1) > 1e-3:
        raise ValueError("rescaled by another factor")
    return "1"


def hugging_face_labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a config.json's id2label in the order of the classes; none if it only numbers them."""
    table = config.get("id2label")
    if not isinstance(table, Mapping) or not table:
        return ()
    try:
        names = {int(number): str(name) for number, name in table.items()}
    except (TypeError, ValueError):
        return ()
    if sorted(names) != list(range(len(names))) or all(names[i] == f"LABEL_{i}" for i in names):
        return ()
    return tuple(names[i] for i in range(len(names)))
