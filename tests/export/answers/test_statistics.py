"""Statistics of BatchNorm as a hint: on the demonstration's digits, wrong readings are told."""

from itertools import islice

import pytest
import torch
from PIL import Image
from resonnx_export import demo
from resonnx_export.answers.statistics import statistics_hint
from resonnx_export.checkpoints.files import load_checkpoint
from resonnx_export.demo import digits, samples, scenes
from resonnx_export.layouts.classifiers import recognise_classifier
from resonnx_export.networks.captioner import Captioner, config_from_state_dict
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.pictures.recipe import PixelScale, image_input
from torch import nn


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.fromarray(picture) for picture, _ in islice(samples.digits(0), 16)]


def network(**assume: str) -> ClassifierNetwork:
    state = load_checkpoint(demo.WEIGHTS / "digits.safetensors").state_dict
    found = recognise_classifier(state, assume=assume).network
    assert isinstance(found, ClassifierNetwork)
    return found


RIGHT = image_input(digits.INPUT_SIZE, resize_short_side=None, mean=demo.MEAN, std=demo.STD)


def test_nothing_is_said_of_the_right_reading(pictures: list[Image.Image]) -> None:
    for count in (8, 16):
        assert statistics_hint(network(), RIGHT, pictures[:count]) == ()


@pytest.mark.parametrize(
    ("mean", "std", "scale"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "1"),
        ((0.0,) * 3, (1.0,) * 3, "1"),
        ((0.0,) * 3, (1.0,) * 3, "255"),
    ],
)
def test_another_normalisation_is_told_and_the_right_one_named(
    mean: tuple[float, ...], std: tuple[float, ...], scale: PixelScale, pictures: list[Image.Image]
) -> None:
    recipe = image_input(digits.INPUT_SIZE, resize_short_side=None, mean=mean, std=std, scale=scale)
    (hint,) = statistics_hint(network(), recipe, pictures)
    assert "at the first layer, bn1" in hint
    assert "--scale 1 --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 fits better" in hint
    assert "a hint, not a proof" in hint
    assert statistics_hint(network(), recipe, pictures, is_reading=False) == (hint,)


@pytest.mark.parametrize(
    ("assume", "where", "option"),
    [
        ({"activation": "silu"}, "layer1.0.bn1", "activation"),
        ({"pool": "avg"}, "layer1.0.bn1", "pool"),
        ({"dilation": "layer3"}, "layer3.0.downsample.1", "dilation"),
        ({"strides": "1-2-1"}, "layer3.0.downsample.1", "strides"),
    ],
)
def test_another_network_is_told_where_it_begins(
    assume: dict[str, str], where: str, option: str, pictures: list[Image.Image]
) -> None:
    wrong = network(**assume)
    (hint,) = statistics_hint(wrong, RIGHT, pictures)
    assert f"from {where} on" in hint
    assert option in hint
    assert "a hint, not a proof" in hint
    # The user's own code is right by definition.
    assert statistics_hint(wrong, RIGHT, pictures, is_reading=False) == ()


def test_too_few_pictures_and_networks_without_statistics_say_nothing(pictures: list[Image.Image]) -> None:
    wrong = network(activation="silu")
    assert statistics_hint(wrong, RIGHT, pictures[:7]) == ()
    for layer in wrong.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = layer.running_var = None
    assert statistics_hint(wrong, RIGHT, pictures) == ()


def test_the_network_is_left_as_it_was(pictures: list[Image.Image]) -> None:
    found = network()
    x = torch.randn(1, 3, digits.INPUT_SIZE, digits.INPUT_SIZE)
    before = found(x)
    statistics_hint(found, RIGHT, pictures)
    assert torch.equal(found(x), before)
    assert not any(layer._forward_pre_hooks for layer in found.modules())


def test_captioners_encoders() -> None:
    state = load_checkpoint(demo.WEIGHTS / "scenes.safetensors").state_dict
    captioner = Captioner(config_from_state_dict(state)).eval()
    captioner.load_state_dict(state, strict=False)
    pictures = [Image.fromarray(scene.image) for scene in samples.scenes(0, 8)]
    right = image_input(scenes.INPUT_SIZE, resize_short_side=None, mean=demo.MEAN, std=demo.STD)
    assert statistics_hint(captioner, right, pictures) == ()
    (hint,) = statistics_hint(captioner, image_input(scenes.INPUT_SIZE, resize_short_side=None), pictures)
    assert "trunk.bn1" in hint
    assert "--mean 0.5,0.5,0.5" in hint
