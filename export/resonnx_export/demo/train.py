"""Trains and measures the demonstration models of pictures; same seed and machine, same weights.

Held-out digits are only measured: the schedule is fixed, and the last averaged weights are kept.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from resonnx_proto.v1 import manifest_pb2 as pb
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from resonnx_export.demo import normalise, resize
from resonnx_export.demo.augment import prepare_rewriting, rewrite
from resonnx_export.demo.digits import INPUT_SIZE, LABELS, Digits, render, split
from resonnx_export.demo.scenes import (
    END,
    MAX_WORDS,
    PAD,
    START,
    VOCABULARY,
    Scene,
    compose,
    decode_caption,
    encode_caption,
)
from resonnx_export.networks.captioner import Captioner, CaptionerConfig
from resonnx_export.networks.resnet import ARCHITECTURES, ResNet
from resonnx_export.networks.video import RecurrentVideo
from resonnx_export.proof import reference

DIGITS_CONFIG = replace(ARCHITECTURES["resnet8_w32_small"], num_classes=len(LABELS))
SCENES_CONFIG = CaptionerConfig(
    trunk=replace(ARCHITECTURES["resnet12_w32"], num_classes=0),
    vocabulary_size=len(VOCABULARY),
    embedding_size=32,
    hidden_size=128,
    attention_size=64,
)

StateDict = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]

_DIGITS_STEPS = 1000
_DIGITS_BATCH = 128
_SCENES_STEPS = 6000
_SCENES_BATCH = 64
_SETTLING_STEPS = 100
_AVERAGING = 0.99


class Batches(Dataset[Batch]):
    """Batch i: pictures uint8 [N,H,W,3] and targets int64, made by `make` from the digits, the seed and i alone."""

    def __init__(
        self, digits: Digits, steps: int, seed: int, make: Callable[[Digits, np.random.Generator], Batch]
    ) -> None:
        self._digits, self._steps, self._seed, self._make = prepare_rewriting(digits), steps, seed, make

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> Batch:
        return self._make(self._digits, np.random.default_rng((self._seed, index)))


def _digit_batch(digits: Digits, rng: np.random.Generator) -> Batch:
    """Return pictures uint8 [N,32,32,3] and labels [N]."""
    written = rewrite(digits[rng.choice(len(digits), _DIGITS_BATCH, replace=False)], rng)
    return _stack_digits(written, rng), torch.from_numpy(written.labels)


def _scene_batch(digits: Digits, rng: np.random.Generator) -> Batch:
    """Return pictures uint8 [N,96,96,3] and tokens [N,T]."""
    written = rewrite(digits[rng.integers(len(digits), size=3 * _SCENES_BATCH)], rng)
    scenes = [compose(rng, written.ink, written.labels) for _ in range(_SCENES_BATCH)]
    tokens = torch.full((_SCENES_BATCH, MAX_WORDS + 2), PAD)
    for row, scene in enumerate(scenes):
        caption = encode_caption(scene.caption)
        tokens[row, : len(caption)] = torch.tensor(caption)
    return _stack_scenes(scenes), tokens


def _stack_digits(digits: Digits, rng: np.random.Generator | None) -> Tensor:
    pictures = [resize(render(ink, rng), INPUT_SIZE) for ink in digits.ink]
    return torch.from_numpy(np.stack(pictures))


def _stack_scenes(examples: list[Scene]) -> Tensor:
    return torch.from_numpy(np.stack([scene.image for scene in examples]))


def train_digits(seed: int = 0, digits: Digits | None = None) -> StateDict:
    """Train the digit model on `digits` (default: the whole training part)."""
    torch.manual_seed(seed)
    batches = Batches(digits or split()[0], _DIGITS_STEPS, seed, _digit_batch)
    return fit(ResNet(DIGITS_CONFIG), batches, _digit_loss, peak_rate=4e-3)


def train_scenes(seed: int = 0, digits: Digits | None = None) -> StateDict:
    """Train the captioner on scenes of `digits` (default: the whole training part)."""
    torch.manual_seed(seed)
    batches = Batches(digits or split()[0], _SCENES_STEPS, seed, _scene_batch)
    return fit(Captioner(SCENES_CONFIG), batches, _caption_loss, peak_rate=3e-3)


def _digit_loss(model: nn.Module, pictures: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(model(normalise(pictures)), labels, label_smoothing=0.05)


def _caption_loss(model: nn.Module, pictures: Tensor, tokens: Tensor) -> Tensor:
    log_probs = model(normalise(pictures), tokens).flatten(0, 1)
    return functional.nll_loss(log_probs, tokens[:, 1:].flatten(), ignore_index=PAD)


def fit(
    model: ResNet | Captioner | RecurrentVideo,
    batches: Dataset[Batch],
    loss_of: Callable[[nn.Module, Tensor, Tensor], Tensor],
    peak_rate: float,
) -> StateDict:
    """Run one cycle of AdamW over the batches; return the averaged weights with BatchNorm statistics of their own."""
    loader = DataLoader(batches, batch_size=None, num_workers=1)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak_rate, total_steps=len(loader), pct_start=0.15)
    average = get_ema_multi_avg_fn(_AVERAGING)  # type: ignore[no-untyped-call]
    averaged = AveragedModel(model, multi_avg_fn=average)
    progress = tqdm(loader, desc=type(model).__name__, mininterval=1.0)
    for step, (pictures, targets) in enumerate(progress):
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, pictures, targets)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        averaged.update_parameters(model)
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.4f}")
    trained = averaged.module
    # The running statistics are those of the weights of many steps, not of the averaged weights.
    trunk = trained if isinstance(trained, ResNet) else trained.get_submodule("trunk")
    reference.settle_batch_norm(trunk, (normalise(pictures) for pictures, _ in islice(loader, _SETTLING_STEPS)))
    return {key: value.contiguous() for key, value in trained.state_dict().items()}


@torch.inference_mode()
def evaluate_digits(model: ResNet, digits: Digits, seed: int | None = None) -> float:
    """Return the share of correct digits; with `seed`, on varied paper and ink."""
    rng = None if seed is None else np.random.default_rng(seed)
    predictions = model.eval()(normalise(_stack_digits(digits, rng))).argmax(dim=1).numpy()
    return float((predictions == digits.labels).mean())


@torch.inference_mode()
def evaluate_scenes(model: Captioner, examples: list[Scene]) -> float:
    """Return the share of scenes with exactly the true caption, decoded greedily."""
    spec = pb.CaptionerSpec(start_id=START, end_id=END, max_tokens=MAX_WORDS + 1)
    model.eval()
    captions = [
        decode_caption(caption.tokens.tolist())
        for pictures in torch.split(normalise(_stack_scenes(examples)), 100)
        for caption in reference.caption(model, model.encode(pictures), spec)
    ]
    return float(np.mean([c == s.caption for c, s in zip(captions, examples, strict=True)]))
