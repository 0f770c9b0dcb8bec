"""A user's video classifier as a network of the exporter: any module with `encode` and `classify`.

    encode(images [B,C,H,W]) -> features [B,D]
    classify(features [N,T,D], lengths [N]) -> logits [N,K]
    start(features [N,D]) -> state                            both optional, for live video: `state` is a tuple of
    step(features [N,D], state) -> logits [N,K], state        tensors [N,size], zeros before a clip

Without `encode` it is a model over given features, whose number is its attribute `feature_size`.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn

from resonnx_export.errors import BadInput
from resonnx_export.networks.video import StepwiseVideo
from resonnx_export.user_code.running import running

_SEED: Final = 3000
_CHANNELS: Final = (3, 1)
# Clips of the trial, their frames, and the number of frames that they are padded to.
_LENGTHS: Final = (4, 1, 5)
_PADDED: Final = 7
# Of max|logit|: what the trial's padding may change.
_SAME: Final = 1e-5


class UserVideo(StepwiseVideo):
    """An adapter with `encode` and `classify`, checked by `as_video_network`."""

    def __init__(self, adapter: nn.Module, in_channels: int, feature_size: int) -> None:
        super().__init__()
        # mypy takes a module's attributes for tensors.
        self.adapter: Any = adapter
        self.in_channels, self.feature_size, self.num_classes = in_channels, feature_size, 0
        self.states: tuple[int, ...] = ()

    def encode(self, images: Tensor) -> Tensor:
        """As StepwiseVideo's. Raises BadInput if the adapter returns no such tensor."""
        return _matrix("encode", self.adapter.encode(images), len(images))

    def classify(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Likewise."""
        return _matrix("classify", self.adapter.classify(features, lengths), len(features))

    def step(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Likewise."""
        returned = self.adapter.step(features, state)
        if not isinstance(returned, tuple | list) or len(returned) != 2 or not isinstance(returned[1], tuple | list):
            raise BadInput("step must return (logits, state), and state must be a tuple of tensors")
        rows = len(features)
        return _matrix("step", returned[0], rows), tuple(_matrix("step's state", each, rows) for each in returned[1])


def is_video(module: nn.Module) -> bool:
    """Return whether a module is an adapter of a video classifier, with `classify`."""
    return callable(getattr(module, "classify", None))


@torch.no_grad()
def as_video_network(adapter: nn.Module, height: int, width: int) -> UserVideo:
    """Check an adapter on clips of noise, and return it as a network.

    Args:
        adapter: In eval mode, float32, on the CPU; it is not changed.
        height: Of its frames, in pixels.
        width: Likewise.

    Raises:
        BadInput: It has no `classify`, raises, returns tensors of other shapes or types, or its logits depend on what
            follows a clip; the message names what is needed.
    """
    name = type(adapter).__name__
    if not is_video(adapter):
        raise BadInput(
            f"{name} has no classify: a video classifier's adapter has encode and classify (docs/adapters.md)"
        )
    network = _with_encoder(adapter, height, width)
    noise = torch.Generator().manual_seed(_SEED)
    features = torch.randn(len(_LENGTHS), _PADDED, network.feature_size, generator=noise)
    lengths = torch.tensor(_LENGTHS)
    with running(f"classify, given features {list(features.shape)} and lengths {list(_LENGTHS)},"):
        logits, again = network.classify(features, lengths), network.classify(features, lengths)
    if not torch.equal(logits, again):
        raise BadInput(
            "classify returned other values at its second call: something random is not turned off by eval()"
        )
    network.num_classes = logits.shape[1]
    other = features.clone()
    for row, length in enumerate(_LENGTHS):
        other[row, length:] = 100 * torch.randn(_PADDED - length, network.feature_size, generator=noise)
    difference = (network.classify(other, lengths) - logits).abs().max()
    if not difference <= _SAME * logits.abs().max():
        raise BadInput(
            "classify's logits depend on what follows a clip's own frames: mask them by lengths (a backward direction "
            "must begin at the clip's own end, which nn.LSTM does with packed sequences only; those are not traced)"
        )
    if callable(getattr(adapter, "step", None)):
        network.states = _states(network, features)
    return network


def _with_encoder(adapter: nn.Module, height: int, width: int) -> UserVideo:
    if not callable(getattr(adapter, "encode", None)):
        size = getattr(adapter, "feature_size", None)
        if not isinstance(size, int) or size < 1:
            raise BadInput(
                f"{type(adapter).__name__} has no encode, so it reads given features: define feature_size, their number"
            )
        return UserVideo(adapter, 0, size)
    reasons = []
    for channels in _CHANNELS:
        images = torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(_SEED))
        try:
            with running(f"encode, given float frames {list(images.shape)} (--size changes it),"):
                features = UserVideo(adapter, channels, 0).encode(images)
        except BadInput as error:
            reasons.append(error)
        else:
            return UserVideo(adapter, channels, features.shape[1])
    raise reasons[0]


def _states(network: UserVideo, features: Tensor) -> tuple[int, ...]:
    """Return the sizes of the states of an adapter with `start` and `step`."""
    if not callable(getattr(network.adapter, "start", None)):
        raise BadInput("step needs start(features), which returns the state before a clip")
    frame = features[:, 0]
    with running("start and step"):
        state = network.adapter.start(frame)
        if not isinstance(state, tuple | list) or not state:
            raise BadInput("start must return a tuple of tensors [N,size]")
        state = tuple(_matrix("start", each, len(frame)) for each in state)
        logits, following = network.step(frame, state)
    if any(each.any() for each in state):
        raise BadInput("start returned other numbers than zeros: keep what differs in step, or export without step")
    if [each.shape for each in state] != [each.shape for each in following]:
        raise BadInput(f"step returned states {_shapes(following)}, start {_shapes(state)}")
    if logits.shape[1] != network.num_classes:
        raise BadInput(f"step returned logits of {logits.shape[1]} classes, classify of {network.num_classes}")
    return tuple(each.shape[1] for each in state)


def _shapes(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(str(list(each.shape)) for each in tensors)


def _matrix(what: str, value: Any, rows: int) -> Tensor:
    if not isinstance(value, Tensor):
        raise BadInput(f"{what} returned a {type(value).__name__}; a tensor is needed")
    if value.ndim != 2 or len(value) != rows or value.dtype != torch.float32:
        kind = str(value.dtype).removeprefix("torch.")
        raise BadInput(f"{what} returned {kind} {list(value.shape)}; float32 [{rows},...] of two axes is needed")
    return value
