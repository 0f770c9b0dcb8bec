"""Reads the folders of transformers' ResNet: labels and properties in config.json, preprocessing beside it."""

from collections.abc import Mapping
from typing import Any, Final

from resonnx_export.class_names.objects import names_of
from resonnx_export.errors import BadInput
from resonnx_export.options import Activation
from resonnx_export.pictures.recipe import InputChanges
from resonnx_export.pictures.recipes import ToldPictures
from resonnx_export.sources.numbers import FILTERS, channels, fraction, height_and_width, side
from resonnx_export.sources.recorded import Recorded

# Under these the network is a ResNet with transformers' keys, or timm's with a prefix.
RESNET: Final = "resnet"
TIMM_WRAPPER: Final = "timm_wrapper"
# ConvNextImageProcessor crops below this size and stretches from it on.
_CONVNEXT_STRETCHES: Final = 384
_CONVNEXT_CROP: Final = 0.875
_RESCALE: Final = 1 / 255
# torch.nn's names of what transformers names otherwise.
_ACTIVATIONS: Final = {"swish": "silu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


def activation(config: Mapping[Any, Any]) -> str:
    """Return the network's activation by torch.nn's name, or transformers' if that is another one."""
    given = str(config.get("hidden_act", "relu"))
    return _ACTIVATIONS.get(given, given)


def read_config(config: Mapping[Any, Any]) -> Recorded:
    """Return what a ResNet's config.json records. Raises BadInput if its labels have an unknown form."""
    network = {}
    network["activation"] = activation(config)
    # The configuration's is in the stem and after the additions only.
    network["inner-activation"] = "relu"
    if config.get("layer_type", "bottleneck") == "bottleneck":
        network["stride-in"] = "1x1" if config.get("downsample_in_bottleneck") is True else "3x3"
    if isinstance(sizes := config.get("hidden_sizes"), list) and len(sizes) > 1:
        first = "2" if config.get("downsample_in_first_stage") is True else "1"
        network["strides"] = "-".join((first, *("2" for _ in sizes[1:])))
    several: Activation | None = "sigmoid" if config.get("problem_type") == "multi_label_classification" else None
    return Recorded(
        labels=names_of({"id2label": config["id2label"]}) if config.get("id2label") else None,
        labels_from="config.json",
        network=network,
        network_from="config.json",
        activation=several,
    )


def read_preprocessor(config: Mapping[Any, Any], file: str) -> ToldPictures:
    """Return the preprocessing of a preprocessor_config.json; what it does not record is left out.

    Raises:
        BadInput: It rescales pixels by a factor other than 1/255.
    """
    scales = config.get("do_rescale", True) is not False
    factor = config.get("rescale_factor", _RESCALE)
    if scales and not (isinstance(factor, float) and abs(factor - _RESCALE) < 1e-6):
        raise BadInput(f"{file}: rescale_factor is {str(factor)[:40]}; 1/255 is read")
    normalises = config.get("do_normalize", True) is not False
    changes = InputChanges(
        **(_resizing(config) if config.get("do_resize", True) is not False else {}),
        channel_order="bgr" if config.get("do_flip_channel_order") is True else "rgb",
        scale="1" if scales else "255",
        mean=channels(config.get("image_mean")) if normalises else (0.0,) * 3,
        std=channels(config.get("image_std")) if normalises else (1.0,) * 3,
    )
    return ToldPictures(changes, file)


def _resizing(config: Mapping[Any, Any]) -> dict[str, Any]:
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    size, resample = config.get("size"), config.get("resample")
    found: dict[str, Any] = {}
    if isinstance(resample, int) and resample in FILTERS:
        found["resize_filter"] = FILTERS[resample]
    short = side(size.get("shortest_edge")) if isinstance(size, Mapping) else None
    if "ConvNext" in kind:
        if (edge := short or side(size)) is None:
            return found
        if edge >= _CONVNEXT_STRETCHES:
            return {**found, "size": height_and_width(edge), "stretch": True}
        crop = fraction(config.get("crop_pct", _CONVNEXT_CROP)) or _CONVNEXT_CROP
        return {**found, "size": height_and_width(edge), "resize_short_side": int(edge / crop)}
    crops = config.get("do_center_crop") is True
    crop_size = height_and_width(config.get("crop_size")) if crops else None
    if short is not None and crop_size is not None and short >= max(crop_size):
        return {**found, "size": crop_size, "resize_short_side": short}
    if not crops and (both := height_and_width(size)) is not None:
        return {**found, "size": both, "stretch": True}
    return found
