"""Trains the demonstration models and prints their accuracy, or measures the saved weights.

    python benchmarks/demo/training.py [digits] [scenes] [gestures] [--evaluate | --validate] [--seed 0] [--count 1000]

Without options, saves the weights to export/resonnx_export/demo/weights. --validate compares changes of the training
on a part of the training digits, and saves nothing.
"""

import argparse
from collections.abc import Callable

import numpy as np
from resonnx_export.demo import WEIGHTS
from resonnx_export.demo.digits import Digits, split
from resonnx_export.demo.gestures import compose_any
from resonnx_export.demo.scenes import compose
from resonnx_export.demo.train import (
    DIGITS_CONFIG,
    SCENES_CONFIG,
    StateDict,
    evaluate_digits,
    evaluate_scenes,
    train_digits,
    train_scenes,
)
from resonnx_export.demo.train_gestures import evaluate_gestures, gestures_model, train_gestures
from resonnx_export.networks.captioner import Captioner
from resonnx_export.networks.detect import load_strict
from resonnx_export.networks.resnet import ResNet
from safetensors.torch import load_file, save_file
from sklearn.model_selection import train_test_split

# Seeds the measured scenes differently from those of training.
_FRESH = 2**20


def main() -> None:
    """Train or load the models named on the command line, and print their accuracy."""
    parser = argparse.ArgumentParser(description="Train and measure the demonstration models.")
    parser.add_argument("models", nargs="*", default=["digits", "scenes", "gestures"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000, help="fresh scenes and clips to measure on")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--evaluate", action="store_true", help="measure the saved weights")
    mode.add_argument("--validate", action="store_true", help="train on a part of the digits, measure on the rest")
    arguments = parser.parse_args()
    train, measured = split()
    if arguments.validate:
        train, measured = _validation_split(train)

    def weights(name: str, train_model: Callable[[int, Digits], StateDict]) -> StateDict:
        path = WEIGHTS / f"{name}.safetensors"
        state_dict = load_file(path) if arguments.evaluate else train_model(arguments.seed, train)
        if not arguments.validate and not arguments.evaluate:
            save_file(state_dict, path)
        return state_dict

    if "digits" in arguments.models:
        reader = ResNet(DIGITS_CONFIG)
        load_strict(reader, weights("digits", train_digits))
        plain = evaluate_digits(reader, measured)
        varied = np.mean([evaluate_digits(reader, measured, seed) for seed in range(5)])
        print(f"digits: {plain:.2%} of {len(measured)} correct, {varied:.2%} on varied paper")
    if "scenes" in arguments.models:
        captioner = Captioner(SCENES_CONFIG)
        load_strict(captioner, weights("scenes", train_scenes))
        rng = np.random.default_rng((_FRESH, arguments.seed))
        examples = [compose(rng, measured.ink, measured.labels) for _ in range(arguments.count)]
        exact = evaluate_scenes(captioner, examples)
        print(f"scenes: {exact:.2%} of {len(examples)} captioned exactly")
    if "gestures" in arguments.models:
        video = gestures_model(weights("gestures", train_gestures))
        rng = np.random.default_rng((_FRESH, arguments.seed))
        clips = compose_any(rng, measured.ink, arguments.count)
        print(f"gestures: {evaluate_gestures(video, clips):.2%} of {arguments.count} clips correct")


def _validation_split(train: Digits, fraction: float = 0.15) -> tuple[Digits, Digits]:
    """Split the training part again, stratified, for choosing between models."""
    fit, validation = train_test_split(np.arange(len(train)), test_size=fraction, random_state=1, stratify=train.labels)
    return train[fit], train[validation]


if __name__ == "__main__":
    main()
