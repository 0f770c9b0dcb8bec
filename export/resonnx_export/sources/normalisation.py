"""Finds the mean, deviation and order of channels that training code stores beside the weights, without running it."""

import ast
from collections.abc import Iterator, Mapping
from typing import Any, Final

from torch import Tensor

from resonnx_export.checkpoints.pickles import Stub
from resonnx_export.pictures.recipe import ChannelOrder, InputChanges
from resonnx_export.pictures.recipes import ToldPictures
from resonnx_export.sources.numbers import channels

# Entries of a configuration of OpenMMLab: mmpretrain's, and mmcls's before it.
_OF_OPENMMLAB: Final = ("data_preprocessor", "img_norm_cfg")
# Where a checkpoint has the configuration, as text or as containers.
_CONFIGURATIONS: Final = ("cfg", "config")
_MAX_TEXT: Final = 1 << 20
_MAX_DEPTH: Final = 20


def of_openmmlab(meta: object) -> ToldPictures | None:
    """Return the normalisation of the configuration in a checkpoint's `meta`; None if it has none, or several.

    OpenMMLab's pixels are 0 to 255, and BGR unless to_rgb is true.
    """
    if not isinstance(meta, Mapping):
        return None
    found: dict[InputChanges, str] = {}
    for name in _CONFIGURATIONS:
        config = meta.get(name)
        content = _settings(config) if isinstance(config, str) else config
        for place, settings in _normalisations(content, 0):
            mean, std = channels(_listed(settings.get("mean"))), channels(_listed(settings.get("std")))
            if mean is not None and std is not None and min(std) > 0:
                order: ChannelOrder = "rgb" if settings.get("to_rgb") is True else "bgr"
                changes = InputChanges(channel_order=order, scale="255", mean=mean, std=std)
                found.setdefault(changes, f"meta.{name}, {place}")
    return ToldPictures(*next(iter(found.items()))) if len(found) == 1 else None


def of_fastai(transform: Stub) -> ToldPictures | None:
    """Return what a pickled fastai Normalize subtracts and divides by; its pixels are RGB, 0 to 1."""
    numbers = [transform.attributes.get(name) for name in ("mean", "std")]
    if not all(isinstance(each, Tensor) and each.numel() in (1, 3) and not each.is_meta for each in numbers):
        return None
    mean, std = (channels(each.flatten().tolist()) for each in numbers if isinstance(each, Tensor))
    if mean is None or std is None or min(std) <= 0:
        return None
    return ToldPictures(InputChanges(channel_order="rgb", scale="1", mean=mean, std=std), "Normalize of the learner")


def _settings(text: str) -> dict[str, Any]:
    """Return the assignments of a configuration written in Python as far as they are literals and dict(...)."""
    if len(text) > _MAX_TEXT:
        return {}
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return {
        target.id: _value(statement.value, 0)
        for statement in statements
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }


def _value(node: ast.expr, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        return None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {keyword.arg: _value(keyword.value, depth + 1) for keyword in node.keywords if keyword.arg}
    if isinstance(node, ast.Dict):
        keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
        return {key: _value(value, depth + 1) for key, value in zip(keys, node.values, strict=True)}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(each, depth + 1) for each in node.elts]
    return node.value if isinstance(node, ast.Constant) else None


def _normalisations(content: object, depth: int) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield the names and settings of each normalisation in a configuration and its objects."""
    if not isinstance(content, Mapping) or depth > 1:
        return
    for name in _OF_OPENMMLAB:
        if isinstance(settings := content.get(name), Mapping):
            yield name, settings
    yield from _normalisations(content.get("model"), depth + 1)


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
