"""The models that benchmarks serve: real architectures with random weights, exported by the exporter itself.

    resnet50   ResNet-50 at 224x224, 1,000 classes
    small      ResNet-18 at 32x32, 10 classes

Random weights cost the same to run as trained ones. BatchNorm statistics are settled, so that activations have the
sizes of a trained network's.
"""

import dataclasses
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from resonnx_export.classifier import ClassifierSettings, export_classifier
from resonnx_export.networks import ARCHITECTURES, ResNet
from resonnx_export.package import Target
from resonnx_export.recipe import image_input
from resonnx_export.reference import settle_batch_norm

_MODELS = {"resnet50": ("resnet50", 224, 1000), "small": ("resnet18", 32, 10)}


def repository(names: tuple[str, ...], folder: Path = Path("benchmarks/.models")) -> Path:
    """Return a model repository that holds `names`; what is missing is exported (ResNet-50: half a minute)."""
    for name in names:
        if not (folder / name / "1").exists():
            _export(name, folder)
    return folder


def _export(name: str, folder: Path) -> None:
    architecture, size, classes = _MODELS[name]
    torch.manual_seed(0)
    network = ResNet(dataclasses.replace(ARCHITECTURES[architecture], num_classes=classes))
    settle_batch_norm(network, [torch.randn(4, 3, size, size) for _ in range(2)])
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "random.safetensors"
        save_file(network.state_dict(), file)
        settings = ClassifierSettings(
            image_input(size, resize_short_side=None if size < 64 else 256),
            tuple(f"class {i}" for i in range(classes)),
        )
        export_classifier(file, settings, Target(folder, name), lambda stage: print(f"{name}: {stage}"))
