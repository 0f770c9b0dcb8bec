"""The guard of int8: what it puts back, what it refuses, and how answers are judged."""

import numpy as np
import pytest
import torch
from resonnx_export.errors import ParityFailed
from resonnx_export.graphs.trace import trace_classifier
from resonnx_export.networks.resnet import ResNet
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.precision.guard import Limits, quantise_within
from resonnx_export.precision.int8 import quantiser
from resonnx_export.precision.judges import ClassifierJudge, Judgement
from resonnx_export.progress import silent
from resonnx_export.proof.predictions import ClassifierPredictions, Pictures
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.golden_examples import Golden


@torch.no_grad()
def with_outlier(network: ResNet, block: str) -> ResNet:
    """Return an equal network in which one of a block's channels has values 10,000 times the others'.

    One scale for all channels then leaves the others next to nothing of eight bits.
    """
    same = ResNet(network.config)
    same.load_state_dict(network.state_dict())
    module = same.get_submodule(block)
    module.bn1.weight[0] *= 1e4
    module.bn1.bias[0] *= 1e4
    module.conv2.weight[:, 0] /= 1e4
    return same.eval().requires_grad_(False)


def test_guard_puts_the_sensitive_block_back(network: ResNet, manifest: pb.Manifest, recipe: pb.ImageInput) -> None:
    pictures = check_pictures(recipe, 64, seed=9)
    uneven = with_outlier(network, "layer2.0")
    model = trace_classifier(uneven, recipe)
    judge = ClassifierJudge(uneven, manifest, Pictures(pictures[32:], "pictures"))
    with quantiser(model, pictures[:32]) as tool:
        unguarded = judge(tool.quantise())
    limits = Limits(min_agreement=90)
    assert limits.broken(unguarded) is not None
    guarded = quantise_within(limits, model, pictures[:32], judge, silent)
    assert guarded.in_float == ("layer2.0",)
    assert limits.broken(guarded.judgement) is None
    assert guarded.judgement.deviation < unguarded.deviation / 3


def judgement(
    pictures: int, identical: int, difference: float = 0.1, noise: float = 0.1, right: tuple[int, int] | None = None
) -> Judgement:
    """Return a judgement of so many made-up predictions, of which so many are identical."""
    logits = np.zeros((pictures, 2), np.float32)
    shown = Pictures(np.zeros((pictures, 1, 1, 3), np.uint8), "pictures")
    predictions = ClassifierPredictions(shown, logits, logits, np.arange(pictures) >= identical)
    return Judgement(predictions, difference, 1.0, noise, right)


class Pessimist:
    """A judge that no graph pleases."""

    def __call__(self, model: bytes) -> Judgement:
        return judgement(100, 98, difference=0.01, noise=len(model))

    def golden(self, model: bytes) -> tuple[Golden, float]:
        raise AssertionError("asked of a model that was refused")


def test_guard_refuses_what_it_cannot_mend(model: bytes, recipe: pb.ImageInput) -> None:
    with pytest.raises(ParityFailed, match=r"alone quantised: 98 of 100 .*at least 99 %"):
        quantise_within(Limits(), model, check_pictures(recipe, 8, seed=1), Pessimist(), silent)


@pytest.mark.parametrize(
    ("judged", "said"),
    [
        (judgement(100, 99), None),
        (judgement(1000, 989), "98.9 %"),
        (judgement(1000, 1000, right=(985, 990)), None),
        (judgement(1000, 1000, right=(984, 990)), "0.60 points"),
        (judgement(100, 100, difference=0.3), "0.30 of"),
    ],
)
def test_limits(judged: Judgement, said: str | None) -> None:
    broken = Limits().broken(judged)
    assert broken is None if said is None else said in (broken or "")


def test_sigmoids_agree_by_yes_and_no(network: ResNet, manifest: pb.Manifest, model: bytes) -> None:
    several = pb.Manifest()
    several.CopyFrom(manifest)
    several.classifier.activation = pb.ClassifierSpec.ACTIVATION_SIGMOID
    pictures = Pictures(check_pictures(manifest.input, 4, seed=2), "pictures")
    assert ClassifierJudge(network, several, pictures)(model).identical == 4
    shifted = ResNet(network.config)
    shifted.load_state_dict(network.state_dict())
    shifted.fc.bias.data += 100
    moved = ClassifierJudge(shifted.eval().requires_grad_(False), several, pictures)(model)
    assert moved.identical == 0
