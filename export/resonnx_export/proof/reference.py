"""PyTorch's predictions: the eager network, with the training recipe's own normalisation and greedy decoding.

Shares no code with the graphs (graphs/trace.py) or the server's decoding (runtime/decoding/), which it checks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.class_activation import ClassActivation
from resonnx_server.runtime.pictures.images import Pixels
from torch import Tensor, nn

from resonnx_export.networks.protocol import CaptionNetwork, Encoded, Stepped
from resonnx_export.networks.resnet import ClassifierNetwork

Float = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]
Activation = pb.ClassifierSpec.Activation


@dataclass(frozen=True)
class Classified:
    """Outputs for N pictures: probabilities [N,K], logits [N,K], features [N,D]; feature_map [N,D,h,w] if asked for."""

    probabilities: Float
    logits: Float
    features: Float
    feature_map: Float | None = None

    @property
    def named(self) -> dict[str, Float]:
        """Those that there are, by the names of the graph's outputs."""
        return {name: array for name, array in vars(self).items() if array is not None}


@dataclass(frozen=True)
class Caption:
    """A greedy caption: tokens int64 [T], with the end token if it was reached, and each step's distribution [T,V]."""

    tokens: Tokens
    step_log_probs: Float

    @property
    def log_probs(self) -> Float:
        """The tokens' own log-probabilities: [T]."""
        return np.take_along_axis(self.step_log_probs, self.tokens[:, None], axis=1)[:, 0]

    def beginning(self, words: int) -> "Caption":
        """Return the first `words` words."""
        return Caption(self.tokens[:words], self.step_log_probs[:words])

    @property
    def margins(self) -> Float:
        """The distance at each step between the best log-probability and the second: [T]."""
        if self.step_log_probs.shape[1] < 2:
            return np.full(len(self.tokens), np.inf, np.float32)
        best_two = np.partition(self.step_log_probs, -2, axis=1)[:, -2:]
        margins: Float = best_two[:, 1] - best_two[:, 0]
        return margins

    @property
    def margin(self) -> float:
        """The smallest of the margins."""
        return float(self.margins.min())


@dataclass(frozen=True)
class StepInputs:
    """What a step of N captions reads: token int64 [N] and state."""

    token: Tensor
    state: tuple[Tensor, ...]


@dataclass(frozen=True)
class StepTaken(StepInputs):
    """A step with PyTorch, and its outputs."""

    stepped: Stepped

    @property
    def inputs(self) -> StepInputs:
        """The step without its outputs, which are large."""
        return StepInputs(self.token, self.state)


def normalise(images: Pixels, recipe: pb.ImageInput) -> Tensor:
    """Turn RGB pixels uint8 [N,H,W,3] into float32 [N,3,H,W] as the training code does.

    As by torchvision's ToTensor and Normalize; without division by 255 and with BGR, as by Caffe.
    """
    if recipe.channel_order == pb.ImageInput.CHANNEL_ORDER_BGR:
        images = np.ascontiguousarray(images[:, :, :, ::-1])
    scaled = _scaled(torch.from_numpy(images).permute(0, 3, 1, 2), recipe)
    mean, std = (torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1) for values in (recipe.mean, recipe.std))
    return (scaled - mean) / std


def normalise_grey(images: Pixels, recipe: pb.ImageInput) -> Tensor:
    """Turn pixels uint8 [N,H,W,3] into float32 [N,1,H,W], as normalise after Pillow's convert("L")."""
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    scaled = _scaled(torch.from_numpy(grey).unsqueeze(1), recipe)
    return (scaled - recipe.mean[0]) / recipe.std[0]


def _scaled(pixels: Tensor, recipe: pb.ImageInput) -> Tensor:
    pixels = pixels.to(torch.float32)
    return pixels if recipe.pixel_scale == 255 else pixels.div(255)


@torch.no_grad()
def classify(
    network: ClassifierNetwork,
    images: Pixels,
    recipe: pb.ImageInput,
    activation: Activation = pb.ClassifierSpec.ACTIVATION_SOFTMAX,
    maps: ClassActivation | None = None,
) -> Classified:
    """Classify uint8 pictures [N,H,W,3]: the network's forward, with the features kept.

    With `maps` also the last feature map, if a module returns one that gives the logits with these weights.
    """
    prepared = normalise_grey(images, recipe) if network.in_channels == 1 else normalise(images, recipe)
    features, logits = network.outputs(prepared)
    probabilities = torch.softmax(logits, dim=1)
    if activation == pb.ClassifierSpec.ACTIVATION_SIGMOID:
        probabilities = torch.sigmoid(logits)
    elif activation == pb.ClassifierSpec.ACTIVATION_NONE:
        probabilities = logits
    classified = Classified(probabilities.numpy(), logits.numpy(), features.numpy())
    if maps is None:
        return classified
    shape = (maps.weights.shape[1], maps.rows, maps.columns)
    found = network.feature_map(prepared, shape, lambda each, logits: maps.gives(each.numpy(), logits.numpy()))
    return classified if found is None else replace(classified, feature_map=found.numpy())


@torch.no_grad()
def encode(network: CaptionNetwork, images: Pixels, recipe: pb.ImageInput) -> Encoded:
    """Encode uint8 pictures [N,H,W,3]."""
    return network.encode(normalise(images, recipe))


class Stepping(Protocol):
    """Has the steps of a CaptionNetwork."""

    def step(self, token: Tensor, state: tuple[Tensor, ...], features: tuple[Tensor, ...]) -> Stepped:
        """As CaptionNetwork.step."""


@torch.no_grad()
def caption(network: Stepping, encoded: Encoded, spec: pb.CaptionerSpec) -> list[Caption]:
    """Write the greedy captions of N encoded pictures, each until the end token or spec.max_tokens."""
    return decode(network, encoded, spec)[0]


@torch.no_grad()
def decode(
    network: Stepping, encoded: Encoded, spec: pb.CaptionerSpec, least_steps: int = 0
) -> tuple[list[Caption], list[StepTaken]]:
    """Return what `caption` returns, and every step that was taken.

    All rows take every step, until the last caption has ended and `least_steps` were taken, if spec.max_tokens permits.
    """
    state, features, first = encoded
    token = torch.full((len(state[0]),), spec.start_id)
    tokens, log_probs, steps = [], [], []
    for position in range(spec.max_tokens):
        if position == 0 and first is not None:
            log_probs.append(first)
        else:
            steps.append(StepTaken(token, state, network.step(token, state, features)))
            state = steps[-1].stepped.state
            log_probs.append(steps[-1].stepped.log_probs)
        token = log_probs[-1].argmax(dim=1)
        tokens.append(token)
        ended = bool((torch.stack(tokens) == spec.end_id).any(dim=0).all())
        if ended and len(steps) >= least_steps:
            break
    rows = zip(torch.stack(tokens, dim=1).numpy(), torch.stack(log_probs, dim=1).numpy(), strict=True)
    return [_until_end(row, scores, spec.end_id) for row, scores in rows], steps


def _until_end(tokens: Tokens, step_log_probs: Float, end_id: int) -> Caption:
    ends = np.flatnonzero(tokens == end_id)
    length = int(ends[0]) + 1 if len(ends) else len(tokens)
    return Caption(tokens[:length], step_log_probs[:length])


@torch.no_grad()
def follow(network: Stepping, encoded: Encoded, captions: Sequence[Tokens], spec: pb.CaptionerSpec) -> npt.NDArray[Any]:
    """Return the log-probabilities that `network` gives to the words of captions on its own states: [sum of T]."""
    state, features, first = encoded
    targets = _padded(captions)
    token = torch.full((len(captions),), spec.start_id)
    log_probs = []
    for position in range(targets.shape[1]):
        if position == 0 and first is not None:
            log_probs.append(first)
        else:
            stepped = network.step(token, state, features)
            state = stepped.state
            log_probs.append(stepped.log_probs)
        token = targets[:, position]
    return _chosen(log_probs, captions)


@torch.no_grad()
def follow_steps(
    network: Stepping, encoded: Encoded, captions: Sequence[Tokens], steps: Sequence[StepInputs]
) -> npt.NDArray[Any]:
    """Return the log-probabilities that `network` gives to the words of captions, each step on the reference's state.

    So no step's rounding adds to that of the steps before.

    Args:
        network: The one to compare.
        encoded: The start to compare: its state is read by the first step, its features by all.
        captions: The reference's words.
        steps: The reference's, at least as many as the longest caption has.

    Returns:
        The words' log-probabilities, concatenated: [sum of T]; NaN where a step's state is not finite.
    """
    log_probs = [] if encoded.first_log_probs is None else [encoded.first_log_probs]
    for number, step in enumerate(steps):
        stepped = network.step(step.token, step.state if number else encoded.state, encoded.features)
        finite = all(bool(each.isfinite().all()) for each in stepped.state)
        log_probs.append(stepped.log_probs if finite else torch.full_like(stepped.log_probs, torch.nan))
    return _chosen(log_probs, captions)


def _padded(captions: Sequence[Tokens]) -> Tensor:
    tokens = np.zeros((len(captions), max(map(len, captions))), np.int64)
    for row, caption in enumerate(captions):
        tokens[row, : len(caption)] = caption
    return torch.from_numpy(tokens)


def _chosen(log_probs: Sequence[Tensor], captions: Sequence[Tokens]) -> npt.NDArray[Any]:
    """Return the words' own log-probabilities of those [N,V] at each position, concatenated: [sum of T]."""
    targets = _padded(captions)
    columns = [log_probs[position].gather(1, targets[:, position, None]) for position in range(targets.shape[1])]
    scores = torch.cat(columns, dim=1).numpy()
    return np.concatenate([scores[row, : len(caption)] for row, caption in enumerate(captions)])


@torch.no_grad()
def settle_batch_norm(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace BatchNorm's running statistics by the means over normalised pictures [N,3,H,W], in place; sets eval mode.

    With random weights the initial statistics let activations vanish or explode.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a cumulative average
    network.train()
    for batch in batches:
        network(batch)
    network.eval()
