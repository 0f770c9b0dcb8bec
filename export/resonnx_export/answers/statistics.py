"""Compares BatchNorm's statistics on the user's pictures with those of training, as a hint of a wrong reading."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.pictures.images import fit
from torch import Tensor, nn

from resonnx_export.answers.alternatives import picture_changes
from resonnx_export.networks.protocol import CaptionNetwork
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.proof.reference import normalise, normalise_grey

_LEAST, _MOST = 8, 16
# In a trial on the demonstration's digits, right readings were below 0.06 (0.14 in the last layer), wrong
# normalisations at 0.2 and above, SiLU, other pools and dilation from 0.16 to 0.5. GELU, epsilons and BGR did not
# stand out.
_PREPROCESSING: Final = 0.2
# Normalisations that fit as well, the more common first.
_EQUAL: Final = 0.02
_NETWORK: Final = 0.15
# A difference begins where it is this many times that of every earlier layer.
_JUMP: Final = 3
# Channels that are nearly constant have no scale to compare with.
_LEAST_VARIANCE: Final = 1e-4
_FIRST_BLOCK: Final = re.compile(r"(?:.*\.)?layer1\.0\.(?:bn1|downsample\.1)")
_START_OF_STAGE: Final = re.compile(r"(?:.*\.)?layer([2-9])\.0\.\w+(?:\.\d)?")
_PROOF: Final = "a hint, not a proof; --expect compares with your model's answers"


@dataclass(frozen=True)
class _Layer:
    """A BatchNorm's name, and the greater of two medians over its channels.

    One is the difference of the means in standard deviations, the other the logarithm of the ratio of deviations.
    """

    name: str
    difference: float


class _Reached(Exception):
    """The first BatchNorm has been measured."""


def statistics_hint(
    network: ClassifierNetwork | CaptionNetwork,
    recipe: pb.ImageInput,
    samples: Sequence[Image.Image],
    *,
    is_reading: bool = True,
) -> tuple[str, ...]:
    """Return a line for the user if the inputs of BatchNorm on typical pictures are unlike those of training.

    No line proves anything: pictures may differ from those of training, and some wrong readings do not stand out.

    Args:
        network: In eval mode.
        recipe: The preprocessing.
        samples: Typical pictures; fewer than 8 are too few to say anything.
        is_reading: Whether the network was built from a file; in the user's code, only the preprocessing can be wrong.
    """
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    if len(samples) < _LEAST or any(layer.running_mean is None for _, layer in layers):
        return ()
    grey = isinstance(network, ClassifierNetwork) and network.in_channels == 1
    run = network.encode if isinstance(network, CaptionNetwork) else network.forward_features

    def inputs(changed: pb.ImageInput) -> Tensor:
        pixels = np.stack([fit(sample, changed) for sample in samples[:_MOST]])
        return normalise_grey(pixels, changed) if grey else normalise(pixels, changed)

    measured = _measure(run, inputs(recipe), dict(layers))
    if not measured:
        return ()
    first = measured[0]
    if first.difference > _PREPROCESSING:
        only = {first.name: network.get_submodule(first.name)}
        fitting = {
            change.typed: _measure(run, inputs(change.input.apply(recipe)), only)[0].difference
            for change in ([] if grey else picture_changes(recipe, files=False))
        }
        return (_about_preprocessing(first, fitting),)
    greatest = first.difference
    for layer in measured[1:] if is_reading else ():
        if layer.difference > max(_NETWORK, _JUMP * greatest):
            return (
                f"BatchNorm: from {layer.name} on, the pictures' statistics differ from those of training, by "
                f"{layer.difference:.2f} deviations ({greatest:.2f} before): {_suspects(layer.name)}; {_PROOF}",
            )
        greatest = max(greatest, layer.difference)
    return ()


def _about_preprocessing(first: _Layer, fitting: Mapping[str, float]) -> str:
    line = (
        f"BatchNorm: at the first layer, {first.name}, the pictures' statistics differ from those of training, by "
        f"{first.difference:.2f} deviations: the normalisation or the pictures are others"
    )
    least = min(fitting.values(), default=first.difference)
    if least < first.difference / 2:
        best = next(typed for typed, difference in fitting.items() if difference <= least + _EQUAL)
        line += f"; {best} fits better ({fitting[best]:.2f})"
    return f"{line}; {_PROOF}"


def _suspects(name: str) -> str:
    if _FIRST_BLOCK.fullmatch(name):
        return "the activation or the pool after the first convolution may be another (--assume activation, pool)"
    if match := _START_OF_STAGE.fullmatch(name):
        return (
            f"the stride, dilation or anti-aliasing at the start of layer{match[1]} may be another (--assume strides, "
            "dilation, anti-aliasing, stride-in)"
        )
    return "the activation may be another (--assume activation)"


@torch.no_grad()
def _measure(run: Callable[[Tensor], object], pictures: Tensor, layers: Mapping[str, nn.Module]) -> list[_Layer]:
    """Return the differences of layers in the order of their execution; of one layer, nothing after it is run."""
    measured: list[_Layer] = []
    handles = []
    for name, layer in layers.items():

        def hook(module: nn.Module, arguments: tuple[Any, ...], name: str = name) -> None:
            measured.append(_Layer(name, _difference(module, arguments[0])))
            if len(layers) == 1:
                raise _Reached

        handles.append(layer.register_forward_pre_hook(hook))
    try:
        run(pictures)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return measured


def _difference(layer: nn.Module, x: Tensor) -> float:
    """Compare the input [N,C,h,w] of a BatchNorm with its running statistics."""
    assert isinstance(layer.running_mean, Tensor)
    assert isinstance(layer.running_var, Tensor)
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), unbiased=False)
    varies = layer.running_var > _LEAST_VARIANCE * layer.running_var.median()
    expected, found = layer.running_var[varies], variance[varies].clamp(min=1e-12)
    if not len(expected):
        return 0.0
    shift = (mean - layer.running_mean)[varies].abs() / expected.sqrt()
    scale = 0.5 * (found / expected).log().abs()
    return float(torch.maximum(shift.median(), scale.median()))
