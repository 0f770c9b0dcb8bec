"""Follows what a whole pickled module says of its layers, and compares the network that was built with it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from resonnx_export.assumptions.assumption import OWN_MODULE, Assumption
from resonnx_export.assumptions.axes import BY_NAME
from resonnx_export.assumptions.reading import Assumed
from resonnx_export.checkpoints.pickles import Stub
from resonnx_export.errors import BadInput
from resonnx_export.layouts.classifiers import recognise_classifier
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.networks.protocol import ResNetCaptioner
from resonnx_export.networks.resnet import ResNet
from resonnx_export.options import Activation
from resonnx_export.sources.layer_kinds import activation_name, is_without_effect
from resonnx_export.sources.pickled import CONCATENATED, Layer, PickledModule, layer_of, pickled_module, shown
from resonnx_export.sources.pickled_properties import Properties, read_properties
from resonnx_export.sources.pickled_regions import Regions, container_of

_LISTED: Final = 6
_CONVOLUTION: Final = ("stride", "padding", "dilation")
# What may follow the logits, with the option that computes it.
_AT_THE_END: Final[Mapping[str, Activation]] = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}


def recognise_pickled(
    state_dict: Mapping[str, Tensor], module: PickledModule, assume: Assumed, *, stride_in_1x1: bool = False
) -> RecognisedCheckpoint:
    """Build and load the network of a pickled module, with the properties that its layers have.

    Args:
        state_dict: Its tensors, without those that are of no network.
        module: The file's.
        assume: Values that the user states, or a file beside it.
        stride_in_1x1: As recognise_classifier's.

    Raises:
        BadInput: As recognise_classifier; or a layer does what the network cannot be built to do, or the user states
            another value than the file has; the message lists what differs.
    """
    first = recognise_classifier(state_dict, assume=assume, stride_in_1x1=stride_in_1x1)
    if stride_in_1x1:
        assume = {**assume, "stride-in": "1x1"}
    assert isinstance(first.network, ResNet)
    regions = Regions.of(first.network, _found(first.network, module), module)
    properties = read_properties(first.network, regions, module)
    config = first.network.config
    values = {name: value for name, value in properties.values.items() if BY_NAME[name].values(config)}
    for name, value in assume.items():
        if name in properties.certain and values.get(name, value) != value:
            raise BadInput(
                f"--assume {name}={value} contradicts the file, whose {module.path} has {values[name]}; leave it out"
            )
    recognised = recognise_classifier(state_dict, assume={**values, **assume})
    assert isinstance(recognised.network, ResNet)
    differences = [*properties.differences, *_differences(recognised.network, regions, module)]
    if differences:
        more = f", and {len(differences) - _LISTED} more" if len(differences) > _LISTED else ""
        raise BadInput(
            f"the pickled {module.path} is not the network that its weights stand for: "
            f"{'; '.join(differences[:_LISTED])}{more}. Export it with its own code: resonnx-export module TARGET "
            "--checkpoint FILE"
        )
    return _told(recognised, properties, module, assume)


def _told(
    recognised: RecognisedCheckpoint, properties: Properties, module: PickledModule, assume: Assumed
) -> RecognisedCheckpoint:
    """Confirm what the file says for certain, and tell what only the class's code would."""
    known = properties.certain | assume.keys()
    assumptions = tuple(replace(each, confirmed=each.name in known) for each in recognised.assumptions)
    own = sorted({layer.path for layer in module.layers.values() if layer.children and not layer.published})
    notes = list(properties.notes)
    if (end := end_of(module)) is not None:
        notes.append(
            f"the network ends in {end[0]}; its input is exported as logits, and --activation {end[1]} follows"
        )
    note = f"the layers of the pickled {module.path} were compared with the network: they have the same attributes"
    if own:
        code = f"a ResNet's, not that of {', '.join(own[:_LISTED])}, which a pickle does not hold"
        assumptions += (Assumption("forward", code, OWN_MODULE),)
    return replace(recognised, notes=(note, *notes, *recognised.notes), assumptions=assumptions)


def with_pickled_trunk(recognised: RecognisedCheckpoint, modules: Sequence[Stub]) -> RecognisedCheckpoint:
    """Compare a captioner's ResNet with the pickled modules that it was read from, and confirm what they say.

    Raises:
        BadInput: A layer differs; the message lists those, with the option that builds the network so.
    """
    network = recognised.network
    if not isinstance(network, ResNetCaptioner):
        return recognised
    trunk, certain, notes = network.trunk, set[str](), recognised.notes
    for stub in modules:
        found = _found(trunk, pickled_module(stub, None))
        if not found:
            continue
        module = pickled_module(stub, container_of([layer.name for layer in found.values()]) or None)
        regions = Regions.of(trunk, found, module)
        properties = read_properties(trunk, regions, module)
        differences = [*properties.differences]
        for name, value in properties.values.items():
            built = BY_NAME[name].read(trunk.config) if BY_NAME[name].values(trunk.config) else value
            if name != "global-pool" and built != value:
                differences.append(f"{name} is {value}, not {built} (--assume {name}={value})")
        if differences := differences or [*_differences(trunk, regions, module)]:
            raise BadInput(
                f"the pickled {module.path} is not the network that its weights stand for: "
                f"{'; '.join(differences[:_LISTED])}"
            )
        certain |= properties.certain
        notes += (f"the ResNet's layers in the pickled {module.path} have the same attributes as the network's",)
    assumptions = tuple(
        replace(each, confirmed=each.confirmed or each.name in certain) for each in recognised.assumptions
    )
    return replace(recognised, notes=notes, assumptions=assumptions)


def _found(network: ResNet, module: PickledModule) -> dict[str, Layer]:
    """Return the file's layer for each convolution and linear layer of the network: the one with the same weights."""
    waiting: dict[tuple[int, ...], list[Layer]] = {}
    for layer in module.layers.values():
        weight = module.tensors.get(f"{layer.name}.weight" if layer.name else "weight")
        if weight is not None:
            waiting.setdefault(tuple(weight.shape), []).append(layer)
    found = {}
    for name, own in network.named_modules():
        if isinstance(own, nn.Conv1d | nn.Conv2d | nn.Linear):
            candidates = waiting.get(tuple(own.weight.shape), [])
            for layer in candidates:
                weight = module.tensors[f"{layer.name}.weight" if layer.name else "weight"]
                if torch.equal(weight.float(), own.weight):
                    found[name] = layer
                    candidates.remove(layer)
                    break
    return found


def _differences(network: ResNet, regions: Regions, module: PickledModule) -> Iterator[str]:
    """Yield what differs between a network's layers and the file's."""
    for name, own in network.named_modules():
        if isinstance(own, nn.Conv2d | nn.Linear):
            if (layer := regions.layers.get(name)) is None:
                yield f"{name} has no layer of the same weights"
            else:
                yield from _unlike(own, layer)
    for own_block, file_block in zip(regions.own_blocks(network), regions.blocks, strict=True):
        built, pickled = (sorted(map(str, each)) for each in (own_block, file_block.pools))
        if built != pickled:
            yield f"{file_block.name} has the pools {', '.join(pickled) or 'none'}, not {', '.join(built) or 'none'}"
    for layer in module.layers.values():
        if layer.replaced:
            yield f"{layer.name or 'the whole'} has {layer.replaced}, which is code"
        if layer.attributes.get("track_running_stats") is False:
            yield f"{layer.name} ({layer.kind}) normalises by the batch (track_running_stats=False)"
        digits = layer.children if layer.kind == "Sequential" and all(map(str.isdecimal, layer.children)) else ()
        if list(digits) != sorted(digits, key=int):
            yield f"{layer.name} runs its layers in the order {', '.join(digits)}"
    yield from _head_differences(network, regions, module)


def _unlike(own: nn.Conv2d | nn.Linear, layer: Layer) -> Iterator[str]:
    kind = type(own).__name__
    if layer.kind != kind or not layer.published:
        yield f"{layer.name} is a {layer.path}, not torch's {kind} alone"
        return
    if isinstance(own, nn.Conv2d):
        for attribute in _CONVOLUTION:
            if attribute in layer.attributes and layer.pair(attribute) != getattr(own, attribute):
                yield f"{layer.name} has {attribute} {layer.pair(attribute)}, not {getattr(own, attribute)}"
        if (groups := layer.number("groups", own.groups)) != own.groups:
            yield f"{layer.name} has {groups} groups, not {own.groups}"
        mode = layer.attributes.get("padding_mode", "zeros")
        if not isinstance(mode, str) or mode != "zeros":
            yield f"{layer.name} pads with {mode[:40] if isinstance(mode, str) else shown(mode)}, not zeros"


def _head_differences(network: ResNet, regions: Regions, module: PickledModule) -> Iterator[str]:
    """Compare the sequences of layers of the heads, if the file's is a Sequential."""
    if regions.head is None:
        return
    own = [layer_of(name, each) for name, each in network.fc.named_modules() if not any(each.children())]
    # fastai's pool begins the head; it shows in the width of the head's input.
    pickled = [layer for name in regions.head_layers if (layer := module.layers[name]).path != CONCATENATED]
    if pickled and pickled[-1].kind in _AT_THE_END:
        pickled.pop()
    built, held = ([_step(each) for each in layers if not is_without_effect(each)] for layers in (own, pickled))
    if built != held:
        yield f"{regions.head or 'the head'} is {' -> '.join(held)}, not {' -> '.join(built)}"


def _step(layer: Layer) -> str:
    if layer.kind == "BatchNorm1d":
        return f"BatchNorm1d(eps={layer.number('eps', 1e-5)})"
    return activation_name(layer) or layer.kind


def end_of(module: PickledModule) -> tuple[str, Activation] | None:
    """Return what a module does to its logits, and the option that computes it; None if it returns them."""
    last = [*module.layers.values()][-1].kind
    return (last, _AT_THE_END[last]) if last in _AT_THE_END else None
