"""Answers of a network that stands for the user's own model."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import resonnx_export
import torch
from PIL import Image
from resonnx_export import classifier as classifier_export
from resonnx_export.cli import app
from resonnx_export.errors import ExportError
from resonnx_export.networks.resnet import ResNet
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE, read_version
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from ..conftest import LABELS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Preprocess = Callable[[Image.Image], Tensor]
RecordAnswers = Callable[..., Path]
TryExport = Callable[..., str]


def tensor_of(picture: Image.Image) -> Tensor:
    """As torchvision's ToTensor and Normalize with ImageNet's mean and deviation."""
    scaled = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (scaled - mean) / std


def resized(filter_name: str = "BILINEAR", short_side: int = 36, size: int = 32) -> Preprocess:
    """As torchvision's Resize and CenterCrop before that."""

    def preprocess(picture: Image.Image) -> Tensor:
        scale = short_side / min(picture.size)
        sides = [short_side if side == min(picture.size) else int(side * scale) for side in picture.size]
        picture = picture.resize((sides[0], sides[1]), Image.Resampling[filter_name])
        left, top = (round((side - size) / 2) for side in picture.size)
        return tensor_of(picture.crop((left, top, left + size, top + size)))

    return preprocess


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (6, 32, 32, 3), np.uint8)


@pytest.fixture(scope="session")
def picture_files() -> list[bytes]:
    """JPEG files of noise of several sizes."""
    files = []
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (40 + number, 56, 3), np.uint8)
        Image.fromarray(pixels).save(buffer := io.BytesIO(), "JPEG", quality=95)
        files.append(buffer.getvalue())
    return files


@pytest.fixture(scope="session")
def record_answers(network: ResNet, pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> RecordAnswers:
    """Record the answers of `network`, or of another model."""

    def record(preprocess: Preprocess = tensor_of, pictures: object = pixels, model: nn.Module = network) -> Path:
        return resonnx_export.record(
            model, pictures, tmp_path_factory.mktemp("answers") / "answers.npz", preprocess=preprocess
        )

    return record


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def export(checkpoint: Path, answers: Path, repository: Path, *options: object) -> Result:
    (labels := answers.parent / "labels.txt").write_text("\n".join(LABELS))
    common = ("--labels", labels, "--repository", repository, "--name", "m", "--size", 32)
    return run("classifier", checkpoint, *common, "--expect", answers, *options)


class Traced(ExportError):
    """Raised where tracing would begin, which takes seconds."""


@pytest.fixture
def try_export(classifier_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TryExport:
    """Export up to tracing; returns the message, "agreed" if the network gives the answers."""

    def trace(*given: object) -> bytes:
        raise Traced("agreed")

    monkeypatch.setattr(classifier_export, "trace_classifier", trace)

    def export_until_tracing(answers: Path, *options: object) -> str:
        result = export(classifier_file, answers, tmp_path / "models", *options)
        assert not (tmp_path / "models").exists()
        message = result.stderr.strip().splitlines()[-1].removeprefix("resonnx-export: ")
        differs = "the network does not give your answers" in message
        assert result.exit_code == (1 if differs else 2), result.output
        return message

    return export_until_tracing


@pytest.fixture(scope="session")
def exported(
    classifier_file: Path, record_answers: RecordAnswers, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Result, Path]:
    """An export that agrees with the answers, and its folder."""
    repository = tmp_path_factory.mktemp("expect") / "models"
    result = export(classifier_file, record_answers(), repository)
    assert result.exit_code == 0, result.output
    return result, repository / "m/1"


@pytest.fixture(scope="session")
def model(exported: tuple[Result, Path]) -> bytes:
    """Its model.onnx."""
    return read_version(exported[1]).files[CLASSIFIER_FILE]
