"""The user's model answers: `record`, and the program for environments without it."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import resonnx_export
import torch
from PIL import Image
from resonnx_export.answers.recorded import read_answers
from resonnx_export.answers.snippet import SNIPPET
from resonnx_export.cli import app
from resonnx_export.errors import BadInput
from torch import Tensor, nn
from typer.testing import CliRunner

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten(), nn.Linear(8 * 8 * 3, 5))


def halves(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 - 0.5


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_pixels(model: nn.Module, tmp_path: Path) -> None:
    model[0].eval()
    written = resonnx_export.record(model, PIXELS, tmp_path / "answers.npz", preprocess=halves)
    modes = [module.training for module in model]
    assert modes == [False, True, True, True], "each module's mode is restored"
    answers = read_answers(written)
    np.testing.assert_array_equal(answers.pixels, PIXELS)
    inputs = torch.stack([halves(Image.fromarray(picture)) for picture in PIXELS])
    with torch.no_grad():
        np.testing.assert_allclose(answers.logits, model.eval()(inputs), rtol=1e-5, atol=1e-6)
    assert (answers.device, answers.dtype, answers.tf32, answers.preprocess) == ("cpu", "float32", False, "")
    assert answers.exact
    assert str(answers) == "20 pictures recorded in float32 on cpu"


def test_pixels_without_preprocessing_are_normalised_as_by_torchvision(model: nn.Module, tmp_path: Path) -> None:
    def torchvision(picture: Image.Image) -> Tensor:
        scaled = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
        return (scaled - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
            :, None, None
        ]

    assumed = read_answers(resonnx_export.record(model, torch.from_numpy(PIXELS), tmp_path / "a.npz"))
    given = read_answers(resonnx_export.record(model, list(PIXELS), tmp_path / "b.npz", preprocess=torchvision))
    np.testing.assert_allclose(assumed.logits, given.logits, rtol=1e-5, atol=1e-5)
    assert (assumed.preprocess, given.preprocess) == ("assumed", "")


@pytest.mark.parametrize("as_bytes", [True, False])
def test_picture_files(as_bytes: bool, model: nn.Module, tmp_path: Path) -> None:
    files = [png(picture) for picture in PIXELS]
    paths = [tmp_path / f"{i}.png" for i in range(len(files))]
    for path, file in zip(paths, files, strict=True):
        path.write_bytes(file)
    answers = read_answers(
        resonnx_export.record(model, files if as_bytes else paths, tmp_path / "a.npz", preprocess=halves)
    )
    assert answers.images == tuple(files)
    assert answers.inputs is not None
    np.testing.assert_array_equal(answers.inputs[3], halves(Image.fromarray(PIXELS[3])))


def test_half_precision_is_told(model: nn.Module, tmp_path: Path) -> None:
    answers = read_answers(resonnx_export.record(model.to(torch.bfloat16), PIXELS, tmp_path / "a.npz"))
    assert answers.dtype == "bfloat16"
    assert not answers.exact
    with torch.autocast("cpu", torch.bfloat16):
        answers = read_answers(resonnx_export.record(model.float(), PIXELS, tmp_path / "a.npz"))
    assert not answers.exact


@pytest.mark.parametrize(
    ("outputs", "tokens"),
    [
        (lambda x: torch.arange(len(x) * 2).view(-1, 2), [0, 1]),
        (lambda x: [[i] * (1 + i % 2) for i in range(len(x))], [0, -1]),
        (lambda x: [[torch.tensor(7), torch.tensor(8)] for _ in x], [7, 8]),
    ],
)
def test_tokens(outputs: Callable[[Tensor], object], tokens: list[int], tmp_path: Path) -> None:
    answers = read_answers(resonnx_export.record(outputs, PIXELS, tmp_path / "a.npz"))
    assert answers.kind == "tokens"
    assert answers.tokens is not None
    assert answers.tokens[0].tolist() == tokens


def test_captions(tmp_path: Path) -> None:
    answers = read_answers(resonnx_export.record(lambda x: ["a red café"] * len(x), PIXELS, tmp_path / "a.npz"))
    assert (answers.kind, answers.captions[-1]) == ("captions", "a red café")


@pytest.mark.parametrize(
    ("pictures", "outputs", "said"),
    [
        ([], lambda x: x, "no pictures"),
        (PIXELS / 255, lambda x: x, "float64 [20, 8, 8, 3]"),
        (PIXELS[..., :1], lambda x: x, "uint8 [20, 8, 8, 1]"),
        (PIXELS, lambda x: x, "a tensor [16, 3, 8, 8]"),
        (PIXELS, lambda x: [[0.5]] * len(x), "a list"),
        (PIXELS, lambda x: torch.zeros(3, 5), "6 rows of logits for 20 pictures"),
        (PIXELS, lambda x: x.flatten(1) / 0, "NaN or infinite"),
        ([b"GIF"], lambda x: x, "preprocess"),
    ],
)
def test_what_cannot_be_recorded(
    pictures: object, outputs: Callable[[Tensor], object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput) as refused:
        resonnx_export.record(outputs, pictures, tmp_path / "a.npz")
    assert said in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_the_printed_program(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = CliRunner().invoke(app, ["record", "--snippet"]).output
    assert printed == SNIPPET
    assert len([line for line in printed.splitlines() if line and not line.startswith("#")]) <= 13
    sizes = [8, 6, 8]
    for i, size in enumerate(sizes):
        # Files of different sizes, some of which end in zeros.
        Image.fromarray(np.zeros((8, size, 3), np.uint8)).save(f"{i}.bmp")
    files = [f"{i}.bmp" for i in range(len(sizes))]
    exec(printed, {"model": model, "files": files, "preprocess": lambda picture: halves(picture.resize((8, 8)))})
    program = read_answers(Path("answers.npz"))
    for i, file in enumerate(program.images):
        assert Image.open(io.BytesIO(file)).tobytes() == bytes(8 * sizes[i] * 3)
    helper = read_answers(
        resonnx_export.record(model, files, "b.npz", preprocess=lambda picture: halves(picture.resize((8, 8))))
    )
    np.testing.assert_array_equal(program.logits, helper.logits)
    np.testing.assert_array_equal(program.inputs, helper.inputs)
    assert (program.device, program.dtype, program.tf32) == (helper.device, helper.dtype, helper.tf32)
    assert program.exact
