"""Finds the last feature map of a network in PyTorch: what one of its modules returns."""

from collections.abc import Callable
from contextlib import ExitStack, suppress

import torch
from torch import Tensor, nn

# Whether a feature map [N,D,h,w] is the one that logits [N,K] are made of.
Fits = Callable[[Tensor, Tensor], bool]


@torch.no_grad()
def last_map(network: nn.Module, x: Tensor, shape: tuple[int, ...], fits: Fits) -> Tensor | None:
    """Return the last feature map [N,*shape] for which `fits` that a module returns for the pictures `x`.

    A function that changes it in place, as ReLU may, has done so by then. None if no module returns it.
    """
    found: list[Tensor] = []

    def look(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.shape[1:] == shape:
            found.append(output)

    with ExitStack() as hooks:
        for module in network.modules():
            # TorchScript's modules take none.
            with suppress(RuntimeError):
                hooks.callback(module.register_forward_hook(look).remove)
        logits = network(x)
    return next((each for each in reversed(found) if fits(each, logits)), None)
