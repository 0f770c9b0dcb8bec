"""What export's tests share: small networks with random weights and settled BatchNorm, and how they are fed."""

import hashlib
import inspect
import io
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, wraps
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from resonnx_export.graphs import trace
from resonnx_export.graphs.trace import trace_classifier, trace_decoder, trace_encoder
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.networks.captioner import Captioner, CaptionerConfig
from resonnx_export.networks.resnet import ARCHITECTURES, ResNet, ResNetConfig
from resonnx_export.pictures.recipe import image_input
from resonnx_export.proof import timing
from resonnx_export.proof.reference import settle_batch_norm
from resonnx_export.publish.manifest import new_manifest
from resonnx_proto.v1 import manifest_pb2 as pb
from safetensors.torch import save_file
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from ..conftest import shared_folder

WORDS = ("<pad>", "<start>", "<end>", "<unk>", *(f"word{i}" for i in range(16)))
LABELS = tuple(f"class {i}" for i in range(7))


@pytest.fixture(scope="session", autouse=True)
def quick_exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Export in half the time.

    Torch builds its table of ONNX operators once, speeds are measured in few runs, and one of our networks with the
    same weights is traced once, by whichever worker needs it first.
    """
    folder = shared_folder(tmp_path_factory) / "traced"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        patch.setattr(timing, "_MEASURING_NS", 0)
        patch.setattr(trace, "_traced", _traced_once(trace._traced, folder))
        yield


@pytest.fixture
def traced_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace networks each time."""
    monkeypatch.setattr(trace, "_traced", inspect.unwrap(trace._traced))


class _ByValue(pickle.Pickler):
    """Writes equal values alike, whether or not they are one object."""

    fast = True

    def persistent_id(self, value: object) -> object:
        if isinstance(value, torch.Tensor):
            return str(value.dtype), tuple(value.shape), value.detach().numpy().tobytes()
        return None


def _traced_once(traced: Callable[..., onnx.ModelProto], folder: Path) -> Callable[..., onnx.ModelProto]:
    """Return `traced`, which keeps in `folder` the graphs of networks made of our modules and torch's only."""

    @wraps(traced)
    def once(module: nn.Module, *given: object) -> onnx.ModelProto:
        ours = ("resonnx_export.graphs.", "resonnx_export.networks.", "torch.nn.")
        if not all(type(each).__module__.startswith(ours) for each in module.modules()):
            return traced(module, *given)
        _ByValue(written := io.BytesIO()).dump((module, given))
        kept = folder / f"{hashlib.sha256(written.getvalue()).hexdigest()}.onnx"
        if not kept.exists():
            partial = kept.with_suffix(f".{os.getpid()}")
            partial.write_bytes(traced(module, *given).SerializeToString())
            partial.replace(kept)
        return onnx.load_model_from_string(kept.read_bytes())

    return once


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Make torch's random numbers the same each time, and leave its own as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@pytest.fixture
def torch_seeded() -> Iterator[None]:
    """As `seeded`, around a test."""
    with seeded():
        yield


def random_network(config: ResNetConfig, size: int = 32) -> ResNet:
    """Return a ResNet with random weights whose activations neither vanish nor explode, in eval mode."""
    with seeded():
        network = ResNet(config)
        settle_batch_norm(network, [torch.randn(4, 3, size, size) for _ in range(2)])
        return network.requires_grad_(False)


@pytest.fixture(scope="session")
def recipe() -> pb.ImageInput:
    return image_input(32, resize_short_side=36)


@pytest.fixture(scope="session")
def network() -> ResNet:
    """A small classifier of LABELS."""
    return random_network(replace(ARCHITECTURES["resnet8_w32_small"], planes=8, num_classes=len(LABELS)))


def captioner_with_preferences(words: int, units: int) -> Captioner:
    """Return a small captioner with attention; its weights are enlarged so that it prefers some words."""
    with seeded():
        trunk = ResNetConfig("basic", (1, 1), planes=8, num_classes=0, stem="small")
        network = Captioner(CaptionerConfig(trunk, words, 8, units, 8))
        settle_batch_norm(network.trunk, [torch.randn(4, 3, 32, 32) for _ in range(2)])
        network.fc.weight.data *= 8
        return network.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def captioner() -> Captioner:
    """A small captioner of WORDS."""
    return captioner_with_preferences(len(WORDS), 16)


@pytest.fixture(scope="session")
def classifier_file(network: ResNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "classifier.safetensors"
    save_file(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def captioner_file(captioner: Captioner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "captioner.safetensors"
    save_file(captioner.state_dict(), path)
    return path


@pytest.fixture
def labels_file(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LABELS) + "\n")
    return path


@pytest.fixture
def words_file(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("\n".join(WORDS) + "\n")
    return path


@pytest.fixture(scope="session")
def model(network: ResNet, recipe: pb.ImageInput) -> bytes:
    """model.onnx of `network`."""
    return trace_classifier(network, recipe)


@pytest.fixture(scope="session")
def captioner_model(captioner: Captioner, recipe: pb.ImageInput) -> tuple[bytes, bytes]:
    """encoder.onnx and decoder.onnx of `captioner`."""
    return trace_encoder(captioner, recipe), trace_decoder(captioner, recipe)


@pytest.fixture(scope="module")
def manifest(network: ResNet, recipe: pb.ImageInput) -> pb.Manifest:
    """Its manifest."""
    spec = pb.ClassifierSpec(labels=LABELS, feature_size=network.feature_size)
    return new_manifest(RecognisedCheckpoint("torchvision", "small", network, ("float32",)), [], recipe, spec)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of 16 pictures, in folders named as labels."""
    rng = np.random.default_rng(5)
    for i in range(16):
        folder = tmp_path / "pictures" / LABELS[i % 4]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40 + i, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.{'png' if i % 2 else 'JPG'}")
    return tmp_path / "pictures"
