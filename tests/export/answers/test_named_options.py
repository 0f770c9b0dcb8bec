"""Answers that differ: the refusal names the option that makes them agree."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from resonnx_export.answers import search
from resonnx_export.networks.resnet import ResNet
from torch import Tensor

from .conftest import RecordAnswers, TryExport, resized, tensor_of


def named_in(message: str) -> list[str]:
    """Return the options that a refusal names."""
    return message.partition("; with ")[2].partition(" it does")[0].split()


def bgr(picture: Image.Image) -> Tensor:
    return tensor_of(Image.fromarray(np.array(picture)[:, :, ::-1]))


def halves(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 127.5 - 1


def caffe(picture: Image.Image) -> Tensor:
    bgr = torch.from_numpy(np.array(picture)[:, :, ::-1].astype(np.float32)).permute(2, 0, 1)
    return bgr - torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)


@pytest.mark.parametrize(
    ("preprocess", "option"),
    [
        pytest.param(bgr, "--channel-order bgr", marks=pytest.mark.slow),
        pytest.param(halves, "--scale 1 --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5", marks=pytest.mark.slow),
        (caffe, "--scale 255 --mean 103.939,116.779,123.68 --std 1,1,1 --channel-order bgr"),
    ],
)
def test_the_missing_option_is_named_and_makes_them_agree(
    preprocess: Any, option: str, try_export: TryExport, record_answers: RecordAnswers
) -> None:
    message = try_export(answers := record_answers(preprocess))
    assert "the network does not give your answers in answers.npz: max|difference|" in message
    assert sorted(named_in(message)) == sorted(option.split())
    assert try_export(answers, *named_in(message)) == "agreed"


@pytest.mark.parametrize(
    ("preprocess", "option"),
    [
        pytest.param(resized("BICUBIC"), "--filter bicubic", marks=pytest.mark.slow),
        pytest.param(resized(short_side=32), "--resize-short-side 32", marks=pytest.mark.slow),
        (lambda picture: tensor_of(picture.resize((32, 32), Image.Resampling.LANCZOS)), "--stretch --filter lanczos"),
    ],
)
def test_resizing_is_found_from_picture_files(
    preprocess: Any, option: str, try_export: TryExport, record_answers: RecordAnswers, picture_files: list[bytes]
) -> None:
    message = try_export(answers := record_answers(preprocess, picture_files))
    assert sorted(named_in(message)) == sorted(option.split())
    assert "pixels differ from your preprocessing's by at most" in message
    assert try_export(answers, *named_in(message)) == "agreed"


@pytest.mark.parametrize(
    ("pairs_s", "told"),
    [(0.0, "not all pairs were tried"), pytest.param(120.0, "of what was assumed)", marks=pytest.mark.slow)],
)
def test_no_reading_agrees(
    try_export: TryExport,
    network: ResNet,
    record_answers: RecordAnswers,
    monkeypatch: pytest.MonkeyPatch,
    pairs_s: float,
    told: str,
) -> None:
    monkeypatch.setattr(search, "_PAIRS_S", pairs_s)
    other = copy.deepcopy(network)
    other.conv1.weight.data *= 1.1
    message = try_export(record_answers(model=other))
    assert "other readings does" in message
    assert told in message
    assert "resonnx-export module" in message
