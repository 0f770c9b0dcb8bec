"""What layers without weights do, by their classes and attributes, in the words of --assume."""

from collections.abc import Callable, Mapping
from typing import Final

from resonnx_export.sources.pickled import Layer

# These do nothing in inference, or change the shape only.
_WITHOUT_EFFECT: Final = frozenset(
    (
        *("Identity", "Dropout", "Dropout1d", "Dropout2d", "AlphaDropout", "FeatureAlphaDropout", "Flatten"),
        *("DropPath", "DropBlock2d", "StochasticDepth"),
    )
)
_SIMPLE: Final = {
    "ReLU": "relu",
    "ReLU6": "relu6",
    "SiLU": "silu",
    "SELU": "selu",
    "Mish": "mish",
    "Hardswish": "hardswish",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
}
_OF_TRANSFORMERS: Final = {
    "SiLUActivation": "silu",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
    "MishActivation": "mish",
}
_DEFAULT_SLOPE: Final = 0.01


def _elu(layer: Layer) -> str | None:
    return "elu" if layer.number("alpha", 1.0) == 1 else None


def _gelu(layer: Layer) -> str | None:
    approximate = layer.attributes.get("approximate", "none")
    return {"none": "gelu", "tanh": "gelu_tanh"}.get(approximate) if isinstance(approximate, str) else None


def _leaky(layer: Layer) -> str | None:
    slope = layer.number("negative_slope", _DEFAULT_SLOPE)
    if not 0 <= slope < 1:
        return None
    return "leaky_relu" if slope == _DEFAULT_SLOPE else f"leaky_relu:{slope:g}"


_WITH_ATTRIBUTES: Final[Mapping[str, Callable[[Layer], str | None]]] = {
    "ELU": _elu,
    "GELU": _gelu,
    "LeakyReLU": _leaky,
}
# Kernel, stride, padding and whether sizes are rounded up, to the stem pool's name.
_STEM_POOLS: Final = {
    ("MaxPool2d", 3, 2, 1, False): "max",
    ("MaxPool2d", 3, 2, 0, True): "max-ceil",
    ("MaxPool2d", 2, 2, 0, False): "max-2x2",
    ("AvgPool2d", 3, 2, 1, False): "avg",
    ("AvgPool2d", 2, 2, 0, False): "avg-2x2",
}
_GLOBAL_POOLS: Final = {
    "AdaptiveAvgPool2d": "avg",
    "FastAdaptiveAvgPool": "avg",
    "FastAdaptiveAvgPool2d": "avg",
    "AdaptiveMaxPool2d": "max",
    "FastAdaptiveMaxPool": "max",
    "AdaptiveAvgMaxPool2d": "avgmax",
    "FastAdaptiveAvgMaxPool": "avgmax",
    "AdaptiveCatAvgMaxPool2d": "cat-avg-max",
    "FastAdaptiveCatAvgMaxPool": "cat-avg-max",
    "AdaptiveConcatPool2d": "cat-max-avg",
}
# At least this kernel: an average over the whole map, as ResNets had it before adaptive pools.
_WHOLE_MAP: Final = 4


def is_without_effect(layer: Layer) -> bool:
    """Return whether a layer leaves the values as they are in inference."""
    return layer.kind in _WITHOUT_EFFECT


def activation_name(layer: Layer) -> str | None:
    """Return the activation that a layer of torch or transformers is, as make_activation has it; None for others."""
    if layer.path.startswith("transformers.activations."):
        return _OF_TRANSFORMERS.get(layer.kind)
    if not layer.of_torch:
        return None
    read = _WITH_ATTRIBUTES.get(layer.kind)
    return read(layer) if read else _SIMPLE.get(layer.kind)


def pool_key(layer: Layer) -> tuple[str, int, int, int, bool]:
    """Return a pool's kind, kernel, stride, padding and rounding; numbers of the first axis."""
    kernel = layer.pair("kernel_size")
    stride = layer.pair("stride", kernel[0])
    ceil = layer.number("ceil_mode", False) != 0
    return layer.kind, kernel[0], stride[0], layer.pair("padding", 0)[0], ceil


def is_pool(layer: Layer) -> bool:
    """Return whether a layer is a pool of torch with a window."""
    return layer.of_torch and layer.kind in ("MaxPool2d", "AvgPool2d")


def stem_pool_name(layer: Layer) -> str | None:
    """Return the name of a stem's pool; None if it is none of those that --assume takes."""
    square = all(len(set(layer.pair(name, 1))) == 1 for name in ("kernel_size", "stride", "padding"))
    plain = layer.pair("dilation") == (1, 1) and layer.attributes.get("divisor_override") is None
    return _STEM_POOLS.get(pool_key(layer)) if square and plain else None


def global_pool_name(layer: Layer) -> str | None:
    """Return the name of a pool over the whole map; None for other layers, and for maps of another size than 1x1."""
    size = layer.attributes.get("output_size", 1)
    if any(not isinstance(side, int) or side != 1 for side in (size if isinstance(size, tuple | list) else (size,))):
        return None
    return _GLOBAL_POOLS.get(layer.kind)


def averages_whole_map(layer: Layer) -> bool:
    """Return whether a layer is an AvgPool2d that covers the last map of the usual inputs."""
    return is_pool(layer) and layer.kind == "AvgPool2d" and min(layer.pair("kernel_size")) >= _WHOLE_MAP
