"""Follows what pickled modules of a captioner say of its ResNet, and compares the network that was built with it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from resonnx_export.assumptions.axes import BY_NAME
from resonnx_export.errors import BadInput
from resonnx_export.layouts.captioners import CaptionSource
from resonnx_export.networks.protocol import ResNetCaptioner
from resonnx_export.networks.resnet import ResNet
from resonnx_export.sources.pickled import PickledModule, pickled_module
from resonnx_export.sources.pickled_network import layer_differences, layers_found, unlike
from resonnx_export.sources.pickled_properties import Properties, read_properties
from resonnx_export.sources.pickled_regions import Regions, container_of

Values = Mapping[str, str]


def follow_pickled(assume: Values, recognise: Callable[[Values], CaptionSource]) -> tuple[CaptionSource, Values]:
    """Recognise a captioner with the properties that its pickled ResNet has, where the user states no others.

    Args:
        assume: Values that the user states, by the names of --assume.
        recognise: Recognises the files with such values.

    Returns:
        The captioner, and all values that it was recognised with.

    Raises:
        BadInput: As recognise_captioner; a layer does what the network cannot be built to do; or the user states
            another value than the file has. The message lists what differs.
    """
    source = recognise(assume)
    if not isinstance(source.recognised.network, ResNetCaptioner):
        return source, assume
    trunk = source.recognised.network.trunk
    options = {each.name for each in source.recognised.assumptions if each.option.startswith("--assume ")}
    followed: dict[str, str] = {}
    certain: set[str] = set()
    for module, _, properties in _pickled(trunk, source):
        for name, value in properties.values.items():
            # Captioners that read the map have no global pool.
            if not BY_NAME[name].values(trunk.config) or (name == "global-pool" and name not in options):
                continue
            if name in properties.certain and assume.get(name, value) != value:
                raise BadInput(
                    f"--assume {name}={assume[name]} contradicts the file, whose {module.path} has {value}; "
                    "leave it out"
                )
            if followed.setdefault(name, value) != value:
                raise BadInput(f"the pickled {module.path} has {name} {value}, another module {followed[name]}")
        certain |= properties.certain
    followed = {name: value for name, value in followed.items() if name not in assume}
    differing = {
        name: value for name, value in followed.items() if name in options and BY_NAME[name].read(trunk.config) != value
    }
    if differing:
        source = recognise({**assume, **differing})
        assert isinstance(source.recognised.network, ResNetCaptioner)
        trunk = source.recognised.network.trunk
    notes = source.recognised.notes
    unmet = [
        f"{name} is {value}, not {built}"
        for name, value in followed.items()
        if (built := BY_NAME[name].read(trunk.config)) != value
    ]
    for module, regions, properties in _pickled(trunk, source):
        if differences := [*properties.differences, *unmet, *layer_differences(trunk, regions, module)]:
            raise BadInput(unlike(module, differences))
        notes += (f"the ResNet's layers in the pickled {module.path} have the same attributes as the network's",)
    assumptions = tuple(
        replace(each, confirmed=each.name in certain or (each.confirmed and each.name not in differing))
        for each in source.recognised.assumptions
    )
    recognised = replace(source.recognised, notes=notes, assumptions=assumptions)
    return replace(source, recognised=recognised), {**assume, **differing}


def _pickled(trunk: ResNet, source: CaptionSource) -> Iterator[tuple[PickledModule, Regions, Properties]]:
    """Yield the parts of the file's modules that hold the ResNet's layers, with their attributes."""
    for stub in source.modules:
        if not (found := layers_found(trunk, pickled_module(stub, None))):
            continue
        module = pickled_module(stub, container_of([layer.name for layer in found.values()]) or None)
        regions = Regions.of(trunk, found, module)
        yield module, regions, read_properties(trunk, regions, module)
