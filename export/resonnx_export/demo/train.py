"""Trains and measures both demonstration models; same seed and machine, same weights.

Held-out digits are only ever measured: the schedule is fixed, the last weights (averaged) are
kept, and `--validate` judges changes on a slice of the training part instead.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from resonnx_export.demo import (
    DIGITS_INPUT_SIZE,
    MAX_WORDS,
    WEIGHTS,
    normalise,
    resize,
)
from resonnx_export.demo.augment import prepare_rewriting, rewrite
from resonnx_export.demo.digits import LABELS, Digits, render, split, validation_split
from resonnx_export.demo.scenes import (
    END,
    PAD,
    START,
    VOCABULARY,
    Scene,
    compose,
    decode_caption,
    encode_caption,
)
from resonnx_export.networks import ARCHITECTURES, Captioner, CaptionerConfig, ResNet, load_strict

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
_FRESH = 2**20
"""Sets the random scenes that are measured apart from those of training."""


class _DigitBatches(Dataset[Batch]):
    """Batch i: uint8 [N,32,32,3] and labels int64 [N], a function of the seed and i alone."""

    def __init__(self, digits: Digits, steps: int, seed: int) -> None:
        self._digits, self._steps, self._seed = prepare_rewriting(digits), steps, seed

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng((self._seed, index))
        picks = rng.choice(len(self._digits), _DIGITS_BATCH, replace=False)
        digits = rewrite(self._digits[picks], rng)
        return _stack_digits(digits, rng), torch.from_numpy(digits.labels)


class _SceneBatches(Dataset[Batch]):
    """Batch i: uint8 [N,96,96,3] and tokens int64 [N,T], a function of the seed and i alone."""

    def __init__(self, digits: Digits, steps: int, seed: int) -> None:
        self._digits, self._steps, self._seed = prepare_rewriting(digits), steps, seed

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng((self._seed, index))
        picks = rng.integers(len(self._digits), size=3 * _SCENES_BATCH)
        digits = rewrite(self._digits[picks], rng)
        batch = [compose(rng, digits.ink, digits.labels) for _ in range(_SCENES_BATCH)]
        tokens = torch.full((_SCENES_BATCH, MAX_WORDS + 2), PAD)
        for row, scene in enumerate(batch):
            caption = encode_caption(scene.caption)
            tokens[row, : len(caption)] = torch.tensor(caption)
        return _stack_scenes(batch), tokens


def _stack_digits(digits: Digits, rng: np.random.Generator | None) -> Tensor:
    pictures = [resize(render(ink, rng), DIGITS_INPUT_SIZE) for ink in digits.ink]
    return torch.from_numpy(np.stack(pictures))


def _stack_scenes(examples: list[Scene]) -> Tensor:
    return torch.from_numpy(np.stack([scene.image for scene in examples]))


def train_digits(seed: int = 0, digits: Digits | None = None) -> StateDict:
    """Train the digit model on `digits` (default: the whole training part)."""
    torch.manual_seed(seed)
    batches = _DigitBatches(digits or split()[0], _DIGITS_STEPS, seed)
    return _fit(ResNet(DIGITS_CONFIG), batches, _digit_loss, peak_rate=4e-3)


def train_scenes(seed: int = 0, digits: Digits | None = None) -> StateDict:
    """Train the captioner on scenes of `digits` (default: the whole training part)."""
    torch.manual_seed(seed)
    batches = _SceneBatches(digits or split()[0], _SCENES_STEPS, seed)
    return _fit(Captioner(SCENES_CONFIG), batches, _caption_loss, peak_rate=3e-3)


def _digit_loss(model: nn.Module, pictures: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(model(normalise(pictures)), labels, label_smoothing=0.05)


def _caption_loss(model: nn.Module, pictures: Tensor, tokens: Tensor) -> Tensor:
    log_probs = model(normalise(pictures), tokens).flatten(0, 1)
    return functional.nll_loss(log_probs, tokens[:, 1:].flatten(), ignore_index=PAD)


def _fit(
    model: nn.Module,
    batches: Dataset[Batch],
    loss_of: Callable[[nn.Module, Tensor, Tensor], Tensor],
    peak_rate: float,
) -> StateDict:
    """Run one cycle of AdamW over the batches; return the averaged weights, BatchNorm settled."""
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
    trained: nn.Module = averaged.module
    _settle_batch_norm(trained, loader)
    return {key: value.contiguous() for key, value in trained.state_dict().items()}


@torch.inference_mode()
def _settle_batch_norm(model: nn.Module, loader: Iterable[Batch]) -> None:
    """Replace BatchNorm's running statistics by plain means over the first batches; then eval.

    The running ones belong to the weights of many different steps, not to the averaged ones.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    model.train()
    trunk = model.trunk.features_map if isinstance(model, Captioner) else model
    for _, (pictures, _targets) in zip(range(_SETTLING_STEPS), loader, strict=False):
        trunk(normalise(pictures))
    model.eval()


@torch.inference_mode()
def evaluate_digits(model: ResNet, digits: Digits, seed: int | None = None) -> float:
    """Return the share of digits named rightly; with `seed`, on varied paper and ink."""
    rng = None if seed is None else np.random.default_rng(seed)
    answers = model.eval()(normalise(_stack_digits(digits, rng))).argmax(dim=1).numpy()
    return float((answers == digits.labels).mean())


@torch.inference_mode()
def evaluate_scenes(model: Captioner, examples: list[Scene]) -> float:
    """Return the share of scenes whose greedy caption is exactly the true one."""
    pictures = normalise(_stack_scenes(examples))
    parts = torch.split(pictures, 100)
    captions = [caption for part in parts for caption in caption_greedily(model, part)]
    return float(np.mean([c == s.caption for c, s in zip(captions, examples, strict=True)]))


@torch.inference_mode()
def caption_greedily(model: Captioner, pictures: Tensor) -> list[str]:
    """Caption pictures [N,3,H,W] by taking the likeliest word at each step."""
    state, features, _ = model.eval().encode(pictures)
    token = torch.full((len(pictures),), START)
    tokens = []
    for _ in range(MAX_WORDS + 1):
        log_probs, state, _attention = model.step(token, state, features)
        token = log_probs.argmax(dim=1)
        tokens.append(token)
        if bool((torch.stack(tokens) == END).any(dim=0).all()):
            break
    return [decode_caption(row) for row in torch.stack(tokens, dim=1).tolist()]


def main() -> None:
    """Train or load the models named on the command line, and print how good they are."""
    parser = argparse.ArgumentParser(description="Train and measure the demonstration models.")
    parser.add_argument("models", nargs="*", default=["digits", "scenes"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000, help="fresh scenes to measure on")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--evaluate", action="store_true", help="measure the saved weights")
    mode.add_argument(
        "--validate",
        action="store_true",
        help="train on part of the training digits, measure on the rest, save nothing",
    )
    arguments = parser.parse_args()
    train, measured = split()
    if arguments.validate:
        train, measured = validation_split(train)

    def weights(name: str, train_model: Callable[[int, Digits], StateDict]) -> StateDict:
        path = WEIGHTS / f"{name}.safetensors"
        if arguments.evaluate:
            return load_file(path)
        state_dict = train_model(arguments.seed, train)
        if not arguments.validate:
            save_file(state_dict, path)
        return state_dict

    if "digits" in arguments.models:
        reader = ResNet(DIGITS_CONFIG)
        load_strict(reader, weights("digits", train_digits))
        plain = evaluate_digits(reader, measured)
        varied = np.mean([evaluate_digits(reader, measured, seed) for seed in range(5)])
        print(f"digits: {plain:.2%} of {len(measured)} right, {varied:.2%} on varied paper")
    if "scenes" in arguments.models:
        captioner = Captioner(SCENES_CONFIG)
        load_strict(captioner, weights("scenes", train_scenes))
        rng = np.random.default_rng((_FRESH, arguments.seed))
        examples = [compose(rng, measured.ink, measured.labels) for _ in range(arguments.count)]
        exact = evaluate_scenes(captioner, examples)
        print(f"scenes: {exact:.2%} of {len(examples)} captioned exactly")


if __name__ == "__main__":
    main()
