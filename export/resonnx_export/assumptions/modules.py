"""What the names of a network's modules tell of it, beyond keys and shapes."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from resonnx_export.assumptions.reading import Assumed

# A block's activations have numbers in timm.
_OF_TIMM: Final = re.compile(r"(?P<prefix>(?:.+\.)?)layer1\.0\.act1")
_OF_TORCHVISION: Final = re.compile(r"(?P<prefix>(?:.+\.)?)layer1\.0\.relu")
_NO_POOL: Final = (
    "the network has no module `maxpool`: if it has no pool after its first convolution, give --assume pool=none"
)


@dataclass(frozen=True)
class ToldByModules:
    """What the names of modules tell.

    Attributes:
        values: Of properties that keys do not record, by name.
        timm: Whether the network is of timm's class.
        notes: Lines for the user.
    """

    values: Assumed = field(default_factory=dict)
    timm: bool = False
    notes: tuple[str, ...] = ()


def told_by_modules(modules: Collection[str], *, pools: bool) -> ToldByModules:
    """Return what names of modules tell of a ResNet, with or without wrappers' prefixes.

    Args:
        modules: All names of the network's modules; none if they are not known.
        pools: Whether the network is read with a pool after its stem.
    """
    for name in modules:
        if match := _OF_TIMM.fullmatch(name):
            # Of the pools after the stem only the filtered one has parts.
            blurred = f"{match['prefix']}maxpool.1" in modules
            return ToldByModules({"anti-aliasing": "blur"} if blurred else {}, timm=True)
        if match := _OF_TORCHVISION.fullmatch(name):
            absent = pools and f"{match['prefix']}maxpool" not in modules
            return ToldByModules(notes=(_NO_POOL,) if absent else ())
    return ToldByModules()
