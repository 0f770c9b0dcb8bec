"""`--expect`: the export gives the answers of the user's own model, or is refused, with the option that is missing."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from resonnx_export import classifier as classifier_export
from resonnx_export.answers import agreement, search
from resonnx_export.answers.agreement import Agreed
from resonnx_export.answers.recorded import read_answers
from resonnx_export.answers.search import Searched
from resonnx_export.cli import app
from resonnx_export.errors import ExportError, ParityFailed
from resonnx_export.networks.resnet import ResNet
from resonnx_export.proof.parity import damage
from resonnx_export.tasks.answers import require_answers
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE, read_version
from torch import Tensor
from typer.testing import CliRunner, Result

from ..conftest import LABELS
from .conftest import RecordAnswers, resized, tensor_of

TryExport = Callable[..., str]


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


def named_in(message: str) -> list[str]:
    """Return the options that a refusal names."""
    return message.partition("; with ")[2].partition(" it does")[0].split()


def changed(path: Path, folder: Path, **arrays: Any) -> Path:
    """Return a copy with other arrays; None removes one."""
    whole = {**np.load(path), **arrays}
    np.savez(folder / "answers.npz", **{name: value for name, value in whole.items() if value is not None})
    return folder / "answers.npz"


@pytest.fixture(scope="module")
def exported(
    classifier_file: Path, record_answers: RecordAnswers, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Result, Path]:
    """An export that agrees with the answers, and its folder."""
    repository = tmp_path_factory.mktemp("expect") / "models"
    result = export(classifier_file, record_answers(), repository)
    assert result.exit_code == 0, result.output
    return result, repository / "m/1"


@pytest.fixture(scope="module")
def model(exported: tuple[Result, Path]) -> bytes:
    """Its model.onnx."""
    return read_version(exported[1]).files[CLASSIFIER_FILE]


def test_answers_that_agree(exported: tuple[Result, Path]) -> None:
    result, folder = exported
    version = read_version(folder)
    assert version.manifest.verified_against == pb.REFERENCE_USER_ANSWERS
    (check,) = [check for check in version.manifest.parity.checks if check.name.startswith("your answers")]
    assert check.name == "your answers, 6 pictures recorded in float32 on cpu: logits"
    assert (check.pictures, check.identical) == (6, 6)
    assert check.bound == pytest.approx(1e-4 * check.max_abs_reference)
    assert "equal to your answers (6 pictures); 2 assumptions" in result.stdout
    assert "confirmed: channel-order rgb" in result.stdout
    cannot_tell = "your answers cannot tell it from 1e-06"
    assert f"assumed: bn-eps 1e-05; --assume bn-eps=VALUE (or 0.001, 1e-06); {cannot_tell}" in result.stdout
    (epsilon,) = [each for each in version.manifest.assumptions if each.name == "bn-eps"]
    assert not epsilon.confirmed
    assert cannot_tell.encode() in version.files["report.html"]
    assert "6 of 6 top classes the same" in result.stdout
    assert b"your answers, 6 pictures recorded" in version.files["report.html"]


def test_verify(exported: tuple[Result, Path], network: ResNet, record_answers: RecordAnswers) -> None:
    _, folder = exported
    verified = run("verify", folder, "--expect", record_answers())
    assert verified.exit_code == 0, verified.output
    assert "your answers, 6 pictures recorded in float32 on cpu: logits: max|difference|" in verified.stdout
    other = copy.deepcopy(network)
    other.fc.weight.data[0] *= 1.01
    differs = run("verify", folder, "--expect", record_answers(model=other))
    assert differs.exit_code == 1
    assert "your answers" in differs.stderr


def test_the_graph_is_what_must_give_the_answers(
    model: bytes, manifest: pb.Manifest, record_answers: RecordAnswers
) -> None:
    agreed = Agreed(read_answers(record_answers()), {}, ())
    with pytest.raises(ParityFailed, match="your answers"):
        require_answers({CLASSIFIER_FILE: damage(model)}, manifest, agreed)
    assert manifest.verified_against == pb.REFERENCE_OUR_READING


def test_the_users_code_stays_the_reference(model: bytes, manifest: pb.Manifest, record_answers: RecordAnswers) -> None:
    manifest = copy.deepcopy(manifest)
    manifest.verified_against = pb.REFERENCE_USER_CODE
    require_answers({CLASSIFIER_FILE: model}, manifest, Agreed(read_answers(record_answers()), {}, ()))
    assert manifest.verified_against == pb.REFERENCE_USER_CODE
    assert manifest.parity.checks


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
        (bgr, "--channel-order bgr"),
        (halves, "--scale 1 --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5"),
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
        (resized("BICUBIC"), "--filter bicubic"),
        (resized(short_side=32), "--resize-short-side 32"),
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


def test_what_was_not_computed_in_fp32_on_a_cpu_is_held_to_3e_3_and_equal_top_classes(
    try_export: TryExport, record_answers: RecordAnswers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The search takes 15 s where no reading agrees.
    monkeypatch.setattr(agreement, "search", lambda *_: Searched(None, None, tried=0, complete=True))
    answers = record_answers()
    logits = np.load(answers)["logits"]
    scale = np.abs(logits).max()
    nearly = logits + 2e-3 * scale * np.random.default_rng(0).choice([-1, 1], logits.shape).astype(np.float32)
    assert "bound 0.0001" in try_export(changed(answers, tmp_path, logits=nearly))
    unknown = try_export(changed(answers, tmp_path, device=None, dtype=None, logits=nearly))
    assert "bound 0.0001" in unknown
    assert "add device and dtype" in unknown
    assert "bound 0.003" in try_export(changed(answers, tmp_path, device="cuda", logits=logits + 4e-3 * scale))
    assert try_export(changed(answers, tmp_path, device="cuda", logits=nearly)) == "agreed"


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"pixels": np.zeros((6, 24, 32, 3), np.uint8)}, "pixels are 24x32 (height x width), and the network's input"),
        ({"logits": np.zeros((6, 9), np.float32)}, "logits has 9 classes, and the network 7"),
        ({"logits": np.full((6, 7), 1 / 7, np.float32)}, "probabilities"),
        ({"logits": None, "captions": ["a dog"] * 6}, "holds captions; a classifier is compared by its logits"),
        ({"logits": np.full((6, 7), np.nan)}, "42 of 42 values of logits are NaN"),
        ({"pixels": None, "images": [b"GIF89a"] * 6}, "picture 0 of images"),
    ],
)
def test_answers_to_other_questions(
    arrays: dict[str, Any], said: str, try_export: TryExport, record_answers: RecordAnswers, tmp_path: Path
) -> None:
    message = try_export(changed(record_answers(), tmp_path, **arrays))
    assert "answers.npz" in message
    assert said in message


def test_answers_that_are_alike_prove_nothing(
    try_export: TryExport, record_answers: RecordAnswers, tmp_path: Path
) -> None:
    same = np.repeat(np.load(record_answers())["logits"][:1], 6, axis=0)
    assert "the logits of all pictures are alike" in try_export(changed(record_answers(), tmp_path, logits=same))
