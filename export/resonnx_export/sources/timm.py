"""Reads timm's folders: labels, preprocessing and the network's name in config.json."""

import math
import re
from collections.abc import Mapping
from typing import Any, Final, get_args

from resonnx_export.class_names.objects import names_of
from resonnx_export.pictures.recipe import FilterName, InputChanges, Size
from resonnx_export.pictures.recipes import ToldPictures
from resonnx_export.sources.numbers import channels, fraction, side
from resonnx_export.sources.recorded import Recorded

# The networks of timm's resnet.py with the keys of torchvision's: they differ in what the name says only.
_RESNET: Final = re.compile(r"(?:wide_|se|eca)?resnex?t(?P<kind>aa|blur)?\d+[a-z]?(?:_\w+)?")
_ANTI_ALIASING: Final = {"aa": "avg", "blur": "blur"}
# Arguments of a network that its keys and shapes show.
_SHOWN: Final = ("num_classes", "in_chans", "global_pool", "drop_rate", "drop_path_rate", "pretrained")
_LONGEST_NAME: Final = 100


def read_config(config: Mapping[Any, Any]) -> Recorded:
    """Return what a config.json of timm records. Raises BadInput if its labels have an unknown form."""
    architecture = config.get("architecture")
    name = architecture if isinstance(architecture, str) and len(architecture) <= _LONGEST_NAME else ""
    pretrained = config.get("pretrained_cfg")
    return Recorded(
        labels=_labels(config, pretrained if isinstance(pretrained, Mapping) else {}),
        labels_from="config.json",
        pictures=read_pretrained(pretrained) if isinstance(pretrained, Mapping) else None,
        network=_network(name, config.get("model_args")),
        network_from="config.json",
        architecture=name,
    )


def _network(name: str, arguments: object) -> dict[str, str]:
    """Return the properties that the name tells, if no argument may have changed them."""
    match = _RESNET.fullmatch(name)
    if match is None or (isinstance(arguments, Mapping) and not set(arguments).issubset(_SHOWN)):
        return {}
    return {
        "activation": "relu",
        "pool": "max",
        "dilation": "none",
        "anti-aliasing": _ANTI_ALIASING.get(match["kind"] or "", "none"),
    }


def _labels(config: Mapping[Any, Any], pretrained: Mapping[Any, Any]) -> Any:
    for holder in (config, pretrained):
        if isinstance(holder.get("label_names"), list):
            named = {key: holder[key] for key in ("label_names", "label_descriptions") if key in holder}
            return names_of(named)
    return None


def read_pretrained(config: Mapping[Any, Any]) -> ToldPictures:
    """Return the preprocessing of timm's evaluation as far as pretrained_cfg records it."""
    found: dict[str, Any] = {"channel_order": "rgb", "scale": "1"}
    if (interpolation := config.get("interpolation")) in get_args(FilterName):
        found["resize_filter"] = interpolation
    found["mean"], found["std"] = channels(config.get("mean")), channels(config.get("std"))
    sizes = config.get("input_size")
    if isinstance(sizes, list | tuple) and len(sizes) == 3:
        height, width, crop = side(sizes[1]), side(sizes[2]), fraction(config.get("crop_pct"))
        mode = config.get("crop_mode") or "center"
        if height is not None and width is not None:
            found["size"] = Size(height, width)
            if crop is not None and height == width and mode == "center":
                found["resize_short_side"] = math.floor(height / crop)
            elif crop == 1 and mode == "squash":
                found["stretch"] = True
    return ToldPictures(InputChanges(**found), "config.json")
