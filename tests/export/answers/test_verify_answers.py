"""`verify --expect`: a version gives the user's answers, or the refusal names what differs, or the way to it."""

import copy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from resonnx_export.assumptions.reading import with_values
from resonnx_export.networks.resnet import ResNet
from torch import Tensor
from typer.testing import Result

from .conftest import RecordAnswers, run, tensor_of


def bgr(picture: Image.Image) -> Tensor:
    return tensor_of(Image.fromarray(np.array(picture)[:, :, ::-1]))


@pytest.fixture
def folder(exported: tuple[Result, Path]) -> Path:
    return exported[1]


def refusal(folder: Path, answers: Path, *options: object) -> str:
    differs = run("verify", folder, "--expect", answers, *options)
    assert differs.exit_code == 1, differs.output
    message = differs.stderr.strip().splitlines()[-1]
    assert "the model does not give your answers in answers.npz: max|difference|" in message
    return message


def test_a_version_that_gives_the_answers(folder: Path, record_answers: RecordAnswers) -> None:
    verified = run("verify", folder, "--expect", record_answers())
    assert verified.exit_code == 0, verified.output
    assert "your answers, 6 pictures recorded in float32 on cpu: logits: max|difference|" in verified.stdout


def test_the_missing_option_is_named_from_the_checkpoint(
    folder: Path, classifier_file: Path, network: ResNet, record_answers: RecordAnswers
) -> None:
    message = refusal(folder, record_answers(bgr), "--checkpoint", classifier_file)
    assert "; with --channel-order bgr it does (max|difference|" in message
    assert "nothing was written" not in message
    other = ResNet(with_values(network.config, {"bn-eps": "0.001"})).eval()
    other.load_state_dict(network.state_dict())
    answers = record_answers(model=other)
    assert "; with --assume bn-eps=0.001 it does" in refusal(folder, answers, "--checkpoint", classifier_file)


def test_without_the_checkpoint_the_assumptions_and_the_next_commands_are_told(
    folder: Path, network: ResNet, record_answers: RecordAnswers
) -> None:
    other = copy.deepcopy(network)
    other.fc.weight.data[0] *= 1.01
    message = refusal(folder, record_answers(model=other))
    assert "what was assumed or given: activation relu, bn-eps 1e-05" in message
    expect = "--expect answers.npz"
    assert f"resonnx-export verify {folder} {expect} --checkpoint classifier.safetensors" in message
    into = f"--labels FILE --repository {folder.parent.parent} --name m"
    again = message.partition("or export again: ")[2]
    assert again.startswith(
        f"resonnx-export classifier classifier.safetensors {into} --size 32 --resize-short-side 36 --filter bilinear "
        "--exif-orientation ignore --channel-order rgb --scale 1 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 "
    )
    assert again.endswith(expect)
