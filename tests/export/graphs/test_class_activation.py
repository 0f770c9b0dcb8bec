"""Which heads have exact class activation maps, and that these are the network's own: their means are its logits."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from resonnx_export.graphs.class_activation import with_feature_map
from resonnx_export.graphs.heatmaps import with_heatmaps
from resonnx_export.graphs.trace import trace_classifier
from resonnx_export.networks.resnet import ClassifierNetwork, ResNet
from resonnx_export.pictures.recipe import image_input
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.precision.fp16 import to_fp16
from resonnx_export.precision.int8 import quantiser
from resonnx_export.proof import reference
from resonnx_export.proof.heatmaps import check_sums, class_activation
from resonnx_export.proof.parity import open_session
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.class_activation import FEATURE_MAP, ClassActivation
from resonnx_server.runtime.pictures.images import Pixels
from torch import Tensor, nn
from torch.nn import functional

CLASSES, WIDTH, SIDE = 5, 6, 16
Pool = Callable[[Tensor], Tensor]


class _Net(ClassifierNetwork):
    """Two convolutions, a pool and a head; with other pools and heads than the exporter's own networks have."""

    def __init__(self, head: nn.Module, pool: Pool, features: int = WIDTH) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.ReLU()
        )
        self.fc, self.pool = head, pool
        self.in_channels, self.num_classes, self.feature_size = 3, CLASSES, features

    def forward_features(self, x: Tensor) -> Tensor:
        return self.pool(self.body(x))


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3))


def _linear(features: int = WIDTH, *, bias: bool = True) -> nn.Linear:
    return nn.Linear(features, CLASSES, bias=bias)


def _norm() -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(WIDTH)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.data.uniform_(0.5, 1.5)
    return norm


class _Times(nn.Module):
    """A linear layer written as x @ W + b."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(WIDTH, CLASSES)), nn.Parameter(torch.randn(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


EXACT: dict[str, Callable[[], _Net]] = {
    "mean": lambda: _Net(_linear(), _mean),
    "no bias": lambda: _Net(_linear(bias=False), _mean),
    "adaptive pool": lambda: _Net(
        nn.Sequential(nn.Dropout(), _linear()), lambda x: nn.AdaptiveAvgPool2d(1)(x).flatten(1)
    ),
    "pool of the whole map": lambda: _Net(_linear(), lambda x: functional.avg_pool2d(x, 5).flatten(1)),
    "x @ W + b": lambda: _Net(_Times(), _mean),
    "not divided": lambda: _Net(nn.Identity(), nn.Sequential(nn.AvgPool2d(5), nn.Flatten(), _linear()), CLASSES),
    "BatchNorm folded": lambda: _Net(nn.Sequential(_norm(), nn.Dropout(), _linear()), _mean),
}
OTHERS: dict[str, tuple[Callable[[], _Net], str]] = {
    "max": (lambda: _Net(_linear(), lambda x: x.amax(dim=(2, 3))), "maxima of the last feature map"),
    "mean and max": (
        lambda: _Net(_linear(2 * WIDTH), lambda x: torch.cat([_mean(x), x.amax(dim=(2, 3))], 1), 2 * WIDTH),
        "several pools",
    ),
    "part of the map": (lambda: _Net(_linear(), lambda x: _mean(x[:, :, 1:, 1:])), "no module"),
    "mean of both": (lambda: _Net(_linear(), lambda x: 0.5 * (_mean(x) + x.amax(dim=(2, 3)))), "not the mean"),
    "two layers": (
        lambda: _Net(nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), _linear(8)), _mean),
        "its head has several layers",
    ),
    "changed scores": (
        lambda: _Net(nn.Sequential(_linear(), nn.ReLU6()), _mean),
        "its logits are not the output of a linear layer",
    ),
    "flattened map": (
        lambda: _Net(_linear(WIDTH * 25), lambda x: x.flatten(1), WIDTH * 25),
        "takes the whole last feature map",
    ),
    "one position": (lambda: _Net(_linear(), lambda x: _mean(_mean(x)[:, :, None, None])), "one position"),
}


@pytest.fixture(scope="module")
def small_recipe() -> pb.ImageInput:
    return image_input(SIDE, resize_short_side=None)


def _made(make: Callable[[], _Net]) -> _Net:
    torch.manual_seed(0)
    return make().eval().requires_grad_(False)


def _manifest(network: ClassifierNetwork, recipe: pb.ImageInput) -> pb.Manifest:
    labels = [f"class {i}" for i in range(network.num_classes)]
    spec = pb.ClassifierSpec(labels=labels, feature_size=network.feature_size)
    return pb.Manifest(input=recipe, classifier=spec)


def _sums(model: bytes, maps: ClassActivation, images: Pixels) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Logits, and the means of the maps of all classes with the bias."""
    found = open_session(model).run({"image": images}, ["logits", FEATURE_MAP])
    every = range(len(maps.bias))
    means = np.stack([maps.maps(each, every).mean(axis=(1, 2)) + maps.bias for each in found[FEATURE_MAP]])
    return found["logits"], means


def _some(names: Iterable[str], quick: Collection[str]) -> list[Any]:
    """All names; those that are not quick are slow tests, as each network is traced."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", _some(EXACT, ["BatchNorm folded"]))
def test_means_of_exact_maps_are_the_logits_of_pytorch(name: str, small_recipe: pb.ImageInput) -> None:
    network = _made(EXACT[name])
    manifest = _manifest(network, small_recipe)
    traced = trace_classifier(network, small_recipe)
    model = with_heatmaps(traced, network, manifest)
    assert (manifest.classifier.heatmaps.rows, manifest.classifier.heatmaps.columns) == (5, 5)
    maps = class_activation(model, manifest)
    assert maps is not None
    images = check_pictures(small_recipe, 3, seed=1)
    logits, means = _sums(model, maps, images)
    expected = reference.classify(network, images, small_recipe).logits
    scale = float(1e-4 * np.abs(expected).max())
    assert means == pytest.approx(expected, abs=scale)
    assert logits == pytest.approx(expected, abs=scale)
    with torch.no_grad():
        own = network.body(reference.normalise(images, small_recipe)).numpy()
    found = open_session(model).run({"image": images}, [FEATURE_MAP])[FEATURE_MAP]
    assert found == pytest.approx(own, abs=float(1e-4 * np.abs(own).max()))
    # Changed weights are noticed.
    assert not ClassActivation(maps.weights * np.float32(1.01), maps.bias, 5, 5).gives(found, logits)


@pytest.mark.parametrize("name", _some(OTHERS, ["two layers"]))
def test_other_heads_are_left_as_they_are_with_the_reason(name: str, small_recipe: pb.ImageInput) -> None:
    make, reason = OTHERS[name]
    network = _made(make)
    manifest = _manifest(network, small_recipe)
    traced = trace_classifier(network, small_recipe)
    assert with_heatmaps(traced, network, manifest) == traced
    heatmaps = manifest.classifier.heatmaps
    assert (heatmaps.rows, heatmaps.columns) == (0, 0)
    assert heatmaps.unsupported
    assert reason in heatmaps.unsupported


@pytest.mark.slow
def test_a_map_that_no_module_returns_cannot_be_compared(small_recipe: pb.ImageInput) -> None:
    network = _made(lambda: _Net(_linear(), lambda x: _mean(torch.tanh(x))))
    manifest = _manifest(network, small_recipe)
    traced = trace_classifier(network, small_recipe)
    assert with_feature_map(traced).heatmaps.rows == 5
    assert with_heatmaps(traced, network, manifest) == traced
    assert "no module" in manifest.classifier.heatmaps.unsupported


def test_every_precision_keeps_the_map_in_float32(
    network: ResNet, model: bytes, recipe: pb.ImageInput, manifest: pb.Manifest
) -> None:
    described = pb.Manifest()
    described.CopyFrom(manifest)
    exact = with_heatmaps(model, network, described)
    images = check_pictures(recipe, 8, seed=1)
    with quantiser(exact, images) as tool:
        variants = {"fp32": exact, "int8": tool.quantise(), "fp16": to_fp16(exact)}
    plain = open_session(model)
    for name, variant in variants.items():
        session = open_session(variant)
        assert session.outputs[:-1] == plain.outputs, name
        assert session.outputs[-1].shape[1:] == (network.feature_size, 8, 8), name
        (check,) = check_sums(variant, described, images)
        assert check.max_abs_difference <= 1e-4 * check.max_abs_reference, name
        maps = class_activation(variant, described)
        assert maps is not None
        logits, means = _sums(variant, maps, images)
        assert means == pytest.approx(logits, abs=float(1e-4 * np.abs(logits).max())), name
