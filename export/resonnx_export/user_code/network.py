"""A user's module as a network of the exporter: in eval mode, float32, on the CPU, split before its last layer."""

import copy
from contextlib import suppress

import torch
from torch import Tensor, nn

from resonnx_export.errors import BadInput
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.options import Activation
from resonnx_export.user_code.outputs import Logits, find_logits, follow
from resonnx_export.user_code.programs import from_torchscript
from resonnx_export.user_code.running import running

_ROWS = 2
_CHANNELS = (3, 1)
_SEED = 3000
# Modules that hold another as their only content.
_WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}


class UserNetwork(ClassifierNetwork):
    """A module that maps normalised pictures to logits, split into body and head."""

    def __init__(self, body: nn.Module, head: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.body, self.fc = body, head
        features = body(example)
        self.in_channels, self.feature_size = example.shape[1], features.shape[1]
        self.num_classes = head(features).shape[1]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the head's input [N,D]."""
        return self.body(x)  # type: ignore[no-any-return]


def prepared(module: nn.Module) -> nn.Module:
    """Take a module out of the wrappers of training, in eval mode, float32 and on the CPU; it is changed in place."""
    while (name := _WRAPPERS.get(type(module).__name__)) and isinstance(getattr(module, name, None), nn.Module):
        module = getattr(module, name)
    with running("moving the module to the CPU, in float32 and eval mode,"):
        module.cpu().float().eval()
        for parameter in module.parameters():  # TorchScript modules have no requires_grad_
            parameter.requires_grad_(False)
        return module


def pictures(height: int, width: int, channels: int = 3) -> Tensor:
    """Return normalised pictures [2,channels,height,width] of noise, the same each time."""
    return torch.randn(_ROWS, channels, height, width, generator=torch.Generator().manual_seed(_SEED))


def fitting_example(module: nn.Module, height: int, width: int) -> Tensor:
    """Return pictures of the number of channels that the module takes. Raises BadInput if it takes neither 3 nor 1."""
    try:
        with torch.no_grad():
            module(pictures(height, width))
    except Exception as error:
        with suppress(Exception), torch.no_grad():
            module(grey := pictures(height, width, channels=1))
            return grey
        with running(f"the module, given float pictures [{_ROWS},3,{height},{width}] (--size changes it),"):
            raise error
    return pictures(height, width)


@torch.no_grad()
def as_network(module: nn.Module, example: Tensor, classes: int | None, activation: Activation) -> UserNetwork:
    """Split a prepared module into body and head, if nothing follows its last linear layer; else without a head.

    Args:
        module: In eval mode; it is not changed.
        example: Two or more normalised pictures [N,C,H,W].
        classes: K of the logits, to choose among several outputs; None if it is not known.
        activation: What will turn the logits into probabilities.

    Raises:
        BadInput: The module raises, returns no logits [N,K], other ones in each call, or probabilities that softmax
            would turn into others.
    """
    if isinstance(module, torch.jit.ScriptModule):
        module = from_torchscript(module, example)
    with running(f"the module, given float pictures {list(example.shape)} (--size changes it),"):
        output = module(example)
    path = find_logits(output, len(example), classes)
    logits = follow(output, path)
    if path or logits.ndim > 2:
        module = Logits(module, path)
    with running("the module's second call"):
        logits, again = module(example), module(example)
    if not torch.equal(logits, again):
        raise BadInput(
            "the module gives other logits at each call: something random is not turned off by eval(), such as "
            "functional.dropout without training=self.training"
        )
    if activation == "softmax" and _are_probabilities(logits):
        raise BadInput(
            "the module returns probabilities (each row is positive with the sum 1), and softmax would change them: "
            "give --activation none"
        )
    return _split(module, logits, example)


def _are_probabilities(logits: Tensor) -> bool:
    ones = torch.ones(len(logits))
    return bool((logits >= 0).all()) and torch.allclose(logits.sum(dim=1), ones, rtol=0, atol=1e-5)


def _split(module: nn.Module, logits: Tensor, example: Tensor) -> UserNetwork:
    linear = [
        name
        for name, layer in module.named_modules()
        if name and isinstance(layer, nn.Linear) and layer.out_features == logits.shape[1]
    ]
    if linear:
        # Modules of any class: some cannot be copied, or look into their layers.
        with suppress(Exception):
            body = copy.deepcopy(module)
            head = body.get_submodule(linear[-1])
            parent, _, name = linear[-1].rpartition(".")
            setattr(body.get_submodule(parent), name, nn.Identity())
            features = body(example)
            if features.ndim == 2 and torch.equal(head(features), logits):
                return UserNetwork(body, head, example)
    return UserNetwork(module, nn.Identity(), example)
