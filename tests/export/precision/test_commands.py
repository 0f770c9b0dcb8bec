"""`--precision` and what goes with it, as users give them: what is written, what is said, and the exit codes."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from resonnx_export.cli import app
from resonnx_export.networks.resnet import ResNet
from resonnx_export.precision import trunk
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import read_version
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from .test_guard import Pessimist

Export = Callable[..., Result]


@pytest.fixture
def export(classifier_file: Path, labels_file: Path, tmp_path: Path) -> Export:
    """Run `resonnx-export classifier` with more options, to tmp_path / models."""

    def run(*options: object) -> Result:
        files = [classifier_file, "--labels", labels_file, "--repository", tmp_path / "models", "--name", "m"]
        return CliRunner().invoke(app, ["classifier", *map(str, files), "--size", "32", *map(str, options)])

    return run


def test_command_exports_int8(export: Export, pictures: Path, tmp_path: Path) -> None:
    loose = ("--min-agreement", 50, "--max-accuracy-drop", 100)
    result = export("--precision", "int8", "--calibration", pictures, *loose)
    assert result.exit_code == 0, result.output
    assert "of 8 held-back pictures predicted as in fp32" in result.stdout
    assert "8 held-back pictures prove little: give --calibration 64 or more" in result.stdout
    assert re.search(r"int8 on the CPU provider here: [\d.]+ times as fast as fp32 at batch 1, [\d.]+ ", result.stdout)
    assert "int8 accuracy:" in result.stdout
    assert dict(read_version(tmp_path / "models" / "m" / "1").manifest.stored) == {"model.onnx": pb.PRECISION_INT8}


def test_command_exports_captioner_in_int8(
    captioner_file: Path, words_file: Path, pictures: Path, tmp_path: Path
) -> None:
    options = ["--vocab", words_file, "--repository", tmp_path / "models", "--name", "c", "--size", 32]
    options += ["--max-tokens", 9, "--precision", "int8", "--calibration", pictures, "--min-agreement", 10]
    result = CliRunner().invoke(app, ["captioner", str(captioner_file), *map(str, options)])
    assert result.exit_code == 0, result.output
    manifest = read_version(tmp_path / "models" / "c" / "1").manifest
    assert dict(manifest.stored) == {"encoder.onnx": pb.PRECISION_INT8}
    assert [(bound.file, bound.precision) for bound in manifest.precisions] == [
        ("decoder.onnx", pb.PRECISION_FP32),
        ("encoder.onnx", pb.PRECISION_INT8),
    ]


@pytest.mark.parametrize(
    ("ratio", "limits", "stored", "said"),
    [
        (1.5, ("--min-agreement", 0, "--max-accuracy-drop", 100), True, "precision: int8, the fastest here"),
        (0.8, ("--min-agreement", 0, "--max-accuracy-drop", 100), False, "precision: fp32, the fastest here; int8"),
        (1.5, (), False, "precision: fp32, as int8 exceeds the limits"),
    ],
)
def test_fastest_precision_within_the_limits(
    export: Export,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ratio: float,
    limits: tuple[object, ...],
    stored: bool,
    said: str,
) -> None:
    monkeypatch.setattr(trunk, "speedups", lambda *_: {1: ratio, 8: ratio})
    if not limits:
        monkeypatch.setattr(trunk, "ClassifierJudge", lambda *_: Pessimist())
    result = export("--precision", "fastest", "--calibration", pictures, *limits)
    assert result.exit_code == 0, result.output
    assert said in result.stdout
    manifest = read_version(tmp_path / "models" / "m" / "1").manifest
    assert dict(manifest.stored) == ({"model.onnx": pb.PRECISION_INT8} if stored else {})
    # In fp32, providers may compute in reduced precision, as without the option.
    assert (pb.PRECISION_BF16 in [bound.precision for bound in manifest.precisions]) is not stored


def test_refused_int8_writes_nothing(
    export: Export, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trunk, "ClassifierJudge", lambda *_: Pessimist())
    result = export("--precision", "int8", "--calibration", pictures)
    assert result.exit_code == 1
    assert "98 of 100 pictures have float32's prediction" in result.stderr
    assert not (tmp_path / "models").exists()


def test_float16_that_overflows_is_refused(network: ResNet, labels_file: Path, tmp_path: Path) -> None:
    loud = network.state_dict() | {"bn1.weight": network.bn1.weight * 1e6}
    save_file(loud, tmp_path / "loud.safetensors")
    files = [tmp_path / "loud.safetensors", "--labels", labels_file, "--repository", tmp_path / "models", "--name", "m"]
    result = CliRunner().invoke(app, ["classifier", *map(str, files), "--size", "32", "--precision", "fp16"])
    assert result.exit_code == 1
    assert "model.onnx in fp16 lies inf of max|reference|" in result.stderr
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--precision", "int8"), "needs --calibration"),
        (("--precision", "fastest"), "--precision fastest needs --calibration"),
        (("--calibration", "."), "goes with --precision int8 or fastest, not fp32"),
        (("--precision", "fp16", "--calibration", "."), "goes with --precision int8 or fastest, not fp16"),
        (("--precision", "int8", "--calibration", "nowhere"), "nowhere is not a folder"),
    ],
)
def test_options_that_do_not_fit(export: Export, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    result = export(*options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "models").exists()
