"""What torch.onnx.export writes by default, a fixed batch of one and external data, is served and exported."""

import logging
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from resonnx_export.onnx_files.recognised import grafted, open_onnx
from resonnx_export.pictures.recipe import Size, image_input
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.repository.bare import bare_file
from resonnx_server.repository.scan import ModelFolder
from resonnx_server.scheduling.device import Device
from torch import nn

from ...server.asking import infer
from ...server.onnx_classifier import version


@pytest.fixture(scope="module")
def module() -> nn.Module:
    layers = [nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(6, 4)).eval()


@pytest.fixture(scope="module")
def file(module: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("default") / "model.onnx"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # torchvision is not needed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(1, 3, 16, 20),), path, verbose=False)
    assert path.with_name("model.onnx.data").exists()
    return path


async def test_it_is_served_in_batches(file: Path, module: nn.Module) -> None:
    device = Device("cpu", 1)
    loading = replace(version(device, threads=1, max_batch_size=3), folder=ModelFolder("m", 1, file.parent))
    served = bare_file.load(loading)()
    assert served.max_batch_size == 3
    x = np.random.default_rng(0).normal(size=(3, 3, 16, 20)).astype(np.float32)
    outputs, _ = await infer(served.engine, {served.inputs[0].name: x})
    served.engine.close()
    device.close()
    np.testing.assert_allclose(next(iter(outputs.values())), _logits(module, x), atol=1e-5)


def test_it_gets_preprocessing(file: Path, module: nn.Module) -> None:
    network = open_onnx(file, Size(224, 224))
    assert (network.form.size, network.form.batch, network.feature_size) == (Size(16, 20), 1, 6)
    assert [each.name for each in network.file.files] == ["model.onnx", "model.onnx.data"]
    recipe = image_input(Size(16, 20), resize_short_side=None, mean=(0.5,) * 3, std=(0.5,) * 3)
    content = grafted(network, recipe, pb.ClassifierSpec.ACTIVATION_SOFTMAX)
    images = np.random.default_rng(1).integers(0, 256, (3, 16, 20, 3), np.uint8)
    x = ((images / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2).astype(np.float32)
    session = bare_file._open(version(threads=1), content)
    np.testing.assert_allclose(session.run({"image": images})["logits"], _logits(module, x), atol=1e-5)


def _logits(module: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = module(torch.from_numpy(x)).numpy()
    return logits
