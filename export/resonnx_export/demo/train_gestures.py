"""Trains and measures the demonstration model of video, as `train` does the models of pictures.

Each frame from the third on is asked for the label, so that labels firm up early in a stream of frames.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from resonnx_export.demo import normalise
from resonnx_export.demo.augment import rewrite
from resonnx_export.demo.digits import Digits, split
from resonnx_export.demo.gestures import LABELS, Clip, compose
from resonnx_export.demo.train import Batch, Batches, StateDict, fit
from resonnx_export.networks.heads import HeadLayer
from resonnx_export.networks.resnet import ResNetConfig
from resonnx_export.networks.sequence import SequenceConfig
from resonnx_export.networks.video import RecurrentVideo, VideoConfig

_TRUNK: Final = ResNetConfig("basic", (1, 1, 1), planes=16, num_classes=0)
GESTURES_CONFIG: Final = VideoConfig(
    trunk=_TRUNK,
    sequence=SequenceConfig(
        input_size=_TRUNK.feature_size, cell="gru", hidden=(96,), head=(HeadLayer(0, len(LABELS)),)
    ),
)
# The network's names, and those of the file: of public projects with one file.
_NAMES: Final = {"trunk.": "resnet.", "sequence.cells.0.": "gru.", "sequence.head.0.": "fc."}

_STEPS = 1500
_BATCH = 24
_FIRST_ASKED = 2
_MEASURED_AT_ONCE = 50


def train_gestures(seed: int = 0, digits: Digits | None = None) -> StateDict:
    """Train on clips of `digits` (default: the whole training part); return the weights in one file's names."""
    torch.manual_seed(seed)
    batches = Batches(digits or split()[0], _STEPS, seed, _clip_batch)
    return _renamed(fit(RecurrentVideo(GESTURES_CONFIG), batches, _loss, peak_rate=4e-3), _NAMES)


def gestures_model(weights: StateDict) -> RecurrentVideo:
    """Return the network with weights as `train_gestures` returns them."""
    model = RecurrentVideo(GESTURES_CONFIG)
    model.load_state_dict(_renamed(weights, {theirs: ours for ours, theirs in _NAMES.items()}))
    return model.eval()


@torch.inference_mode()
def evaluate_gestures(model: RecurrentVideo, clips: Iterable[Clip]) -> float:
    """Return the share of clips whose label is right."""
    right: list[bool] = []
    source = iter(clips)
    while some := [*islice(source, _MEASURED_AT_ONCE)]:
        frames, targets = _stack(some)
        features = _features(model, frames, targets)
        answers = model.classify(features, targets[:, 1]).argmax(dim=1)
        right += (answers == targets[:, 0]).tolist()
    return float(np.mean(right))


def _clip_batch(digits: Digits, rng: np.random.Generator) -> Batch:
    """Return the frames of all clips uint8 [F,64,64,3], and their labels and lengths int64 [N,2]."""
    written = rewrite(digits[rng.choice(len(digits), _BATCH, replace=False)], rng)
    return _stack([compose(rng, ink, LABELS[rng.integers(len(LABELS))]) for ink in written.ink])


def _stack(clips: list[Clip]) -> Batch:
    frames = torch.from_numpy(np.concatenate([clip.frames for clip in clips]))
    return frames, torch.tensor([[LABELS.index(clip.label), len(clip.frames)] for clip in clips])


def _features(model: RecurrentVideo, frames: Tensor, targets: Tensor) -> Tensor:
    """Return the features [N,T,D] of all clips' frames [F,64,64,3]; zeros follow short clips."""
    features = model.encode(normalise(frames)).float()
    return pad_sequence(list(torch.split(features, targets[:, 1].tolist())), batch_first=True)


def _loss(model: nn.Module, frames: Tensor, targets: Tensor) -> Tensor:
    assert isinstance(model, RecurrentVideo)
    labels, lengths = targets.unbind(dim=1)
    outputs, _ = model.sequence.cells[0](_features(model, frames, targets))
    logits = model.sequence.head(outputs).float()
    place = torch.arange(logits.shape[1])
    asked = (place >= _FIRST_ASKED) & (place < lengths[:, None])
    wanted = labels[:, None].expand(asked.shape)[asked]
    return functional.cross_entropy(logits[asked], wanted, label_smoothing=0.03)


def _renamed(weights: StateDict, names: dict[str, str]) -> StateDict:
    return {
        next(name + key.removeprefix(old) for old, name in names.items() if key.startswith(old)): value
        for key, value in weights.items()
    }
