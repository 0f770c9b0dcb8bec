"""Follows what a whole pickled module says of its layers, and compares the network that was built with it."""

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from torch import Tensor, nn

from resonnx_export.assumptions.assumption import OWN_MODULE, Assumption
from resonnx_export.assumptions.axes import BY_NAME
from resonnx_export.assumptions.reading import Assumed
from resonnx_export.errors import BadInput
from resonnx_export.layouts.classifiers import recognise_classifier
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.networks.resnet import ResNet
from resonnx_export.options import Activation
from resonnx_export.sources.layer_kinds import activation_name, is_without_effect
from resonnx_export.sources.pickled import CONCATENATED, Layer, PickledModule, layer_of, shown
from resonnx_export.sources.pickled_properties import Properties, read_properties
from resonnx_export.sources.pickled_regions import Regions

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
    regions = Regions.of(first.network, layers_found(first.network, module), module)
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
    differences = [*properties.differences, *layer_differences(recognised.network, regions, module)]
    if differences:
        raise BadInput(unlike(module, differences))
    return _told(recognised, properties, module, assume)


def unlike(module: PickledModule, differences: Sequence[str]) -> str:
    """Return the message for differences that no option can follow."""
    more = f", and {len(differences) - _LISTED} more" if len(differences) > _LISTED else ""
    return (
        f"the pickled {module.path} is not the network that its weights stand for: "
        f"{'; '.join(differences[:_LISTED])}{more}. Export it with its own code: resonnx-export module TARGET "
        "--checkpoint FILE"
    )


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


def layers_found(network: ResNet, module: PickledModule) -> dict[str, Layer]:
    """Return the file's layer for each convolution and linear layer of the network: the one with the same weights."""
    waiting: dict[bytes, deque[Layer]] = {}
    for layer in module.layers.values():
        weight = module.tensors.get(f"{layer.name}.weight" if layer.name else "weight")
        if weight is not None:
            waiting.setdefault(_fingerprint(weight), deque()).append(layer)
    found = {}
    for name, own in network.named_modules():
        if isinstance(own, nn.Conv1d | nn.Conv2d | nn.Linear) and (same := waiting.get(_fingerprint(own.weight))):
            found[name] = same.popleft()
    return found


def _fingerprint(weight: Tensor) -> bytes:
    """Return a hash of a tensor's shape and float32 values."""
    values = weight.detach().float().contiguous().numpy()
    return hashlib.sha256(str(values.shape).encode() + values.tobytes()).digest()


def layer_differences(network: ResNet, regions: Regions, module: PickledModule) -> Iterator[str]:
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
