"""Reads the properties of a ResNet from the layers of a pickled module, as --assume names them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from resonnx_export.networks.blocks import BasicBlock, Bottleneck
from resonnx_export.networks.resnet import ResNet
from resonnx_export.sources.layer_kinds import (
    activation_name,
    averages_whole_map,
    global_pool_name,
    is_pool,
    is_without_effect,
    pool_key,
    stem_pool_name,
)
from resonnx_export.sources.pickled import Layer, PickledModule
from resonnx_export.sources.pickled_regions import Block, Regions, blocks_of, what_it_pools

# Names of the layer after the stem, where an Identity stands for "none".
_STEM_POOL: Final = re.compile(r"(?:.*\.)?(?:max_?pool\d?|pool\d?|stem_?pool|pooler)")
_GATES: Final = {"Sigmoid": "sigmoid", "Hardsigmoid": "hard-sigmoid"}
_NORMALISATIONS: Final = ("BatchNorm2d", "SyncBatchNorm", "FrozenBatchNorm2d")
_FINAL: Final = ("Softmax", "LogSoftmax", "Sigmoid")


@dataclass
class Properties:
    """What a pickled module says of a ResNet.

    Attributes:
        values: By the names of --assume.
        certain: Names of those that hold whatever the code of the module's class does.
        differences: What no ResNet can be built to do.
        notes: Lines for the user.
    """

    values: dict[str, str] = field(default_factory=dict)
    certain: set[str] = field(default_factory=set)
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def put(self, name: str, found: Mapping[str, str], certain: bool) -> None:
        """Take one value that all layers agree on, or note that they differ. `found` has the layers' names."""
        values = set(found.values())
        if len(values) == 1:
            self.values[name] = values.pop()
            if certain:
                self.certain.add(name)
        elif values:
            first: dict[str, str] = {}
            for layer, value in found.items():
                first.setdefault(value, layer)
            self.differences.append(f"{name} is " + ", ".join(f"{value} in {at}" for value, at in first.items()))


def read_properties(network: ResNet, regions: Regions, module: PickledModule) -> Properties:
    """Read the properties of a pickled module whose layers were found in a network.

    Raises:
        BadInput: An attribute is not of its kind.
    """
    found = Properties()
    published = all(layer.published for layer in module.layers.values() if layer.children)
    norms = [layer for layer in module.layers.values() if layer.kind in _NORMALISATIONS]
    found.put("bn-eps", {each.name: f"{each.number('eps', 1e-5):g}" for each in norms}, certain=True)
    _read_geometry(network, regions, found)
    in_blocks = [leaf for block in regions.blocks for leaf in block.leaves]
    gates = {leaf.name: _GATES[leaf.kind] for leaf in in_blocks if leaf.kind in _GATES}
    if network.config.gate != "none":
        found.put("gate", gates, published)
    activations = {
        leaf.name: name
        for leaf in (*regions.others, *in_blocks)
        if leaf.name not in gates and (name := activation_name(leaf)) is not None and leaf.kind not in _FINAL
    }
    gated = {name: value for name, value in activations.items() if _of_gate(name)}
    found.put("activation", {name: each for name, each in activations.items() if name not in gated}, published)
    found.put("gate-activation", gated, published)
    head = {name: each for name in regions.head_layers if (each := activation_name(module.layers[name]))}
    if regions.head is not None:
        last = regions.head_layers[-1]
        between = {name: each for name, each in head.items() if name != last or module.layers[last].kind not in _FINAL}
        found.put("head-activation", between or {regions.head: "none"}, certain=True)
    _read_pools(regions, found, published, module)
    for leaf in (*regions.others, *in_blocks):
        if not _explained(leaf):
            found.differences.append(f"{leaf.name} is a {leaf.path}")
    return found


def _of_gate(name: str) -> bool:
    return name.split(".")[-2:-1] in (["se"], ["attention"]) or ".se." in name


def _explained(leaf: Layer) -> bool:
    known = activation_name(leaf) or leaf.kind in (*_GATES, *_FINAL) or global_pool_name(leaf)
    return bool(known or is_without_effect(leaf) or what_it_pools(leaf) or leaf.kind in ("ModuleList", "Sequential"))


def _dilation_after(
    regions: Regions,
    stages: list[str],
    stage: str,
    blocks: list[tuple[int, BasicBlock | Bottleneck, Block]],
    stride: int,
) -> int:
    """Return the dilation that a stage ends with; a stage's first bottleneck has that of the stage before."""
    last = regions.layers[f"{stage}.{blocks[-1][0]}.conv2"].pair("dilation")[0]
    if len(blocks) > 1 or isinstance(blocks[0][1], BasicBlock):
        return last
    following = stages[stages.index(stage) + 1 :]
    if following and (shown := regions.layers.get(f"{following[0]}.0.conv2")) is not None:
        return shown.pair("dilation")[0]
    return 2 * last if last > 1 and stride == 1 else last


def _read_geometry(network: ResNet, regions: Regions, found: Properties) -> None:
    """Read strides and dilations from the first and last block of each stage."""
    stem = regions.layers.get("conv1") or regions.layers.get("conv1.0")
    if stem is not None:
        found.put("stem-stride", {stem.name: str(stem.pair("stride")[0])}, certain=True)
    of_stage: dict[str, list[tuple[int, BasicBlock | Bottleneck, Block]]] = {}
    for (stage, index, own), block in zip(blocks_of(network), regions.blocks, strict=True):
        of_stage.setdefault(stage, []).append((index, own, block))
    strides, dilations, in_1x1, filters = [], [], {}, {}
    for stage, blocks in of_stage.items():
        convolutions = [regions.layers.get(f"{stage}.0.conv{number}") for number in (1, 2)]
        last = regions.layers.get(f"{stage}.{blocks[-1][0]}.conv2")
        if last is None or None in convolutions:
            return
        first, second = (each.pair("stride")[0] for each in convolutions if each is not None)
        stride = first
        if isinstance(blocks[0][1], Bottleneck):
            stride = first * second
            if stride > 1:
                in_1x1[stage] = "1x1" if first > 1 else "3x3"
        for _, _, block in blocks:
            for leaf in block.filters:
                filters[leaf.name] = "blur" if leaf.kind == "BlurPool2d" else "avg"
        if blocks[0][2].filters:
            leaf = blocks[0][2].filters[0]
            stride *= leaf.pair("stride", leaf.pair("kernel_size")[0])[0]
        strides.append(stride)
        dilations.append(_dilation_after(regions, [*of_stage], stage, blocks, stride))
    nominal = [
        stride * max(1, dilation // earlier)
        for stride, dilation, earlier in zip(strides, dilations, [1, *dilations], strict=False)
    ]
    count = sum(dilation > 1 for dilation in dilations)
    number = len(dilations)
    dilated = f"layer{number}" if count == 1 else f"layer{number - count + 1}-{number}"
    found.put("strides", {"": "-".join(map(str, nominal))}, certain=True)
    found.put("dilation", {"": dilated if count else "none"}, certain=True)
    found.put("stride-in", in_1x1, certain=True)
    found.put("anti-aliasing", filters or {"": "none"}, certain=True)


def _read_pools(regions: Regions, found: Properties, published: bool, module: PickledModule) -> None:
    whole = {leaf.name: name for leaf in regions.others if (name := global_pool_name(leaf)) is not None}
    windows = [leaf for leaf in regions.others if averages_whole_map(leaf)]
    for leaf in windows:
        size = leaf.pair("kernel_size")
        found.notes.append(f"{leaf.name} averages {size[0]}x{size[1]}: the last map must have this size, not more")
    found.put("global-pool", {**whole, **{leaf.name: "avg" for leaf in windows}}, published and not windows)
    stem = [leaf for leaf in regions.others if is_pool(leaf) and not averages_whole_map(leaf)]
    blurred = [leaf for leaf in regions.others if leaf.kind == "BlurPool2d"]
    pools: dict[str, str] = {}
    for leaf in stem:
        if blurred or (found.values.get("anti-aliasing") == "avg" and pool_key(leaf)[:3] == ("AvgPool2d", 2, 2)):
            pools[leaf.name] = "max"
        elif (name := stem_pool_name(leaf)) is not None:
            pools[leaf.name] = name
        else:
            kind, kernel, stride, padding, ceil = pool_key(leaf)
            rounding = ", ceil_mode=True" if ceil else ""
            found.differences.append(f"{leaf.name} is {kind}({kernel}, {stride}, {padding}{rounding})")
    if not stem:
        absent = [each.name for each in regions.others if each.kind == "Identity" and _STEM_POOL.fullmatch(each.name)]
        if absent or _stem_is_sequential(regions, module):
            pools[absent[0] if absent else ""] = "none"
    found.put("pool", pools, published)


def _stem_is_sequential(regions: Regions, module: PickledModule) -> bool:
    """Return whether a Sequential runs the stem: what is not in it is not run."""
    deep = regions.layers.get("conv1.0")
    stem = deep or regions.layers.get("conv1")
    if stem is None:
        return False
    container = stem.name.rpartition(".")[0]
    if deep is not None:
        container = container.rpartition(".")[0]
    return container in module.layers and module.layers[container].kind == "Sequential"
