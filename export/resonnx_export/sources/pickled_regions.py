"""Where the parts of a ResNet, its stem, blocks and head, are in a pickled module."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import cast

from torch import nn

from resonnx_export.networks.blocks import BasicBlock, Bottleneck
from resonnx_export.networks.resnet import ResNet
from resonnx_export.networks.unrecorded import BlurPool
from resonnx_export.sources.layer_kinds import is_pool, pool_key
from resonnx_export.sources.pickled import Layer, PickledModule, layer_of


@dataclass(frozen=True)
class Block:
    """A residual block of the file: its container, and its layers without weights."""

    name: str
    leaves: tuple[Layer, ...]
    # The container of the skip connection's convolution.
    shortcut: str | None

    @property
    def filters(self) -> list[Layer]:
        """Filters of anti-aliasing, which are not in the skip connection."""
        return [
            leaf
            for leaf in self.leaves
            if (is_pool(leaf) or leaf.kind == "BlurPool2d")
            and not (self.shortcut and leaf.name.startswith(f"{self.shortcut}."))
        ]

    @property
    def pools(self) -> list[object]:
        """What its pools and filters do."""
        return list(filter(None, map(what_it_pools, self.leaves)))


def what_it_pools(layer: Layer) -> object | None:
    """Return what a pool or a filter does, to be compared; None for other layers."""
    if layer.kind in ("BlurPool2d", "BlurPool"):
        return "BlurPool", layer.attributes.get("stride")
    if layer.kind in ("AvgPool2dSame", "_SameAverage"):
        return "AvgPool2dSame"
    return pool_key(layer) if is_pool(layer) else None


@dataclass(frozen=True)
class Regions:
    """Where the parts of a network are in a file.

    Attributes:
        layers: The file's layer for each convolution and linear layer of the network, by the network's names.
        blocks: In the order of the network's.
        head: The container of the head; None if that is one linear layer.
        head_layers: Its layers without children.
        others: Layers without children and weights that are in neither.
    """

    layers: Mapping[str, Layer]
    blocks: tuple[Block, ...]
    head: str | None
    head_layers: tuple[str, ...]
    others: tuple[Layer, ...]

    @classmethod
    def of(cls, network: ResNet, layers: Mapping[str, Layer], module: PickledModule) -> "Regions":
        """Find the regions by the file's names of the network's layers."""
        weighted = {key.rpartition(".")[0] for key in module.tensors}
        ends = [layer for layer in module.layers.values() if not layer.children]
        leaves = [layer for layer in ends if layer.name not in weighted]
        blocks = []
        for stage, index, block in blocks_of(network):
            inside = [layers[name].name for name in _convolutions(f"{stage}.{index}", block) if name in layers]
            container = container_of(inside)
            shortcut = next((layers[name].name for name in layers if name.startswith(f"{stage}.{index}.down")), None)
            of_block = tuple(leaf for leaf in leaves if leaf.name.startswith(f"{container}.") and container)
            blocks.append(Block(container, of_block, container_of([shortcut]) if shortcut else None))
        linear = [layers[name].name for name in layers if name == "fc" or name.startswith("fc.")]
        head = container_of(linear) if linear else ""
        trunk = [layers[name].name for name in layers if not name.startswith("fc")]
        sequential = module.layers[head].kind == "Sequential" if head in module.layers else False
        apart = sequential and not any(name.startswith(f"{head}.") for name in trunk) and bool(head)
        in_head = tuple(leaf.name for leaf in ends if apart and leaf.name.startswith(f"{head}."))
        used = {leaf.name for block in blocks for leaf in block.leaves} | set(in_head)
        others = tuple(leaf for leaf in leaves if leaf.name not in used)
        return cls(layers, tuple(blocks), head if apart else None, in_head, others)

    def own_blocks(self, network: ResNet) -> Iterator[list[object]]:
        """Yield what the pools and filters of each block of a network do, as Block.pools."""
        for _, _, block in blocks_of(network):
            found = (_own_pool(name, each) for name, each in block.named_modules())
            yield [each for each in found if each is not None]


def _own_pool(name: str, module: nn.Module) -> object | None:
    return ("BlurPool", module.stride) if isinstance(module, BlurPool) else what_it_pools(layer_of(name, module))


def blocks_of(network: ResNet) -> Iterator[tuple[str, int, BasicBlock | Bottleneck]]:
    """Yield each block with its stage's name and its number in it."""
    for number in range(1, len(network.config.layers) + 1):
        stage = cast("nn.Sequential", network.get_submodule(f"layer{number}"))
        for index, block in enumerate(stage):
            yield f"layer{number}", index, cast("BasicBlock | Bottleneck", block)


def _convolutions(prefix: str, block: nn.Module) -> list[str]:
    return [f"{prefix}.{name}" for name, each in block.named_modules() if isinstance(each, nn.Conv2d)]


def container_of(names: Sequence[str]) -> str:
    """Return the name of the innermost module that contains all of the named ones."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return ".".join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, levels))
