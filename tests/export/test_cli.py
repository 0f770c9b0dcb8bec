"""The commands as users run them: what is written, what is said, and the exit codes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from resonnx_export import classifier as classifier_export
from resonnx_export.cli import app
from resonnx_export.graphs import trace
from resonnx_export.networks.resnet import ResNet
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.golden_examples import check_recipe, parse_golden
from resonnx_server.runtime.model_files.manifest import read_version
from typer.testing import CliRunner, Result

from .conftest import LABELS, WORDS


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def classifier(checkpoint: Path, labels: Path, repository: Path, *options: object) -> Result:
    common = ("--labels", labels, "--repository", repository, "--name", "m", "--size", 32)
    return run("classifier", checkpoint, *common, *options)


def captioner(checkpoint: Path, words: Path, repository: Path, *options: object) -> Result:
    common = ("--vocab", words, "--repository", repository, "--name", "c", "--size", 32, "--max-tokens", 9)
    return run("captioner", checkpoint, *common, *options)


def assert_refused(result: Result, repository: Path, *said: str) -> None:
    """Exit code 2, one line that says what is wrong, and nothing written."""
    assert result.exit_code == 2, result.output
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("resonnx-export: ")
    for words in said:
        assert words in message
    assert "Traceback" not in result.output
    assert not repository.exists()


def test_classifier(classifier_file: Path, labels_file: Path, tmp_path: Path) -> None:
    result = classifier(classifier_file, labels_file, tmp_path / "models")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == str(tmp_path / "models" / "m" / "1")
    assert result.stdout.splitlines()[-1] == f"  report: {tmp_path / 'models' / 'm' / '1' / 'report.html'}"
    version = read_version(tmp_path / "models" / "m" / "1")
    assert sorted(version.files) == ["golden.npz", "manifest.json", "model.onnx", "report.html"]
    manifest = version.manifest
    assert tuple(manifest.classifier.labels) == LABELS
    assert manifest.source.layout == "torchvision"
    assert manifest.input.resize_short_side == 36
    assert manifest.parity.damaged_copy_rejected
    precisions = [bound.precision for bound in manifest.precisions]
    assert precisions == [pb.PRECISION_FP32, pb.PRECISION_BF16, pb.PRECISION_FP16, pb.PRECISION_TF32]
    check_recipe(parse_golden(version.files["golden.npz"]), manifest.input)
    assert str(tmp_path).encode() not in b"".join(version.files.values())

    assert manifest.input.exif_orientation == pb.ImageInput.EXIF_ORIENTATION_IGNORE
    assert b"EXIF orientation ignored" in version.files["report.html"]

    options = ("--no-allow-reduced", "--stretch", "--exif-orientation", "apply")
    again = classifier(classifier_file, labels_file, tmp_path / "models", *options)
    assert again.exit_code == 0, again.output
    second = read_version(tmp_path / "models" / "m" / "2")
    assert second.files["model.onnx"] == version.files["model.onnx"]
    assert [bound.precision for bound in second.manifest.precisions] == [pb.PRECISION_FP32]
    assert second.manifest.input.resize == pb.ImageInput.RESIZE_STRETCH
    assert second.manifest.input.exif_orientation == pb.ImageInput.EXIF_ORIENTATION_APPLY
    assert b"EXIF orientation applied" in second.files["report.html"]
    check_recipe(parse_golden(second.files["golden.npz"]), second.manifest.input)


def test_captioner(captioner_file: Path, words_file: Path, tmp_path: Path) -> None:
    result = captioner(captioner_file, words_file, tmp_path / "models")
    assert result.exit_code == 0, result.output
    version = read_version(tmp_path / "models" / "c" / "1")
    graphs = ["decoder.onnx", "encoder.onnx", "feature_rows.onnx", "state_rows.onnx"]
    assert sorted(version.files) == sorted([*graphs, "golden.npz", "manifest.json", "report.html"])
    assert sorted(version.manifest.file_bytes) == graphs
    spec = version.manifest.captioner
    assert tuple(spec.vocabulary) == WORDS
    assert (spec.start_id, spec.end_id, spec.pad_id, spec.unknown_id) == (1, 2, 0, 3)
    assert sorted(spec.stripped_ids) == [0, 1]
    assert (spec.max_tokens, spec.attention_rows, spec.attention_columns) == (9, 16, 16)
    assert {bound.precision for bound in version.manifest.precisions} == {pb.PRECISION_FP32}


def test_an_existing_version(classifier_file: Path, labels_file: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "m" / "4").mkdir(parents=True)
    refused = classifier(classifier_file, labels_file, tmp_path / "models", "--version", 4)
    assert refused.exit_code == 2
    assert "exists" in refused.stderr
    replaced = classifier(classifier_file, labels_file, tmp_path / "models", "--version", 4, "--overwrite")
    assert replaced.exit_code == 0, replaced.output
    assert read_version(tmp_path / "models" / "m" / "4").manifest.source.architecture


def test_not_a_tensor_file(labels_file: Path, tmp_path: Path) -> None:
    assert_refused(classifier(labels_file, labels_file, tmp_path / "models"), tmp_path / "models", "text that begins")


def test_missing_keys_and_other_shapes(network: ResNet, labels_file: Path, tmp_path: Path) -> None:
    state_dict = dict(network.state_dict())
    del state_dict["layer2.0.bn1.weight"]
    state_dict["layer1.0.bn1.bias"] = torch.zeros(5)
    torch.save(state_dict, tmp_path / "broken.pth")
    assert_refused(
        classifier(tmp_path / "broken.pth", labels_file, tmp_path / "models"),
        tmp_path / "models",
        "missing: layer2.0.bn1.weight",
        "layer1.0.bn1.bias (expected [8], found [5])",
    )


def test_labels_count(classifier_file: Path, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("one\ntwo\n")
    assert_refused(
        classifier(classifier_file, tmp_path / "labels", tmp_path / "models"),
        tmp_path / "models",
        "--labels gives 2 labels for 7",
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--name", "../m"), "model name"),
        (("--mean", "0.5,0.5"), "--mean '0.5,0.5' is not three numbers"),
        (("--std", "a,b,c"), "--std"),
        (("--stretch", "--resize-short-side", 40), "exclude"),
        (("--resize-short-side", 20), "--resize-short-side 20 is less than"),
        (("--size", 5000), "input.width 5000"),
    ],
)
def test_settings(
    options: tuple[object, ...], said: str, classifier_file: Path, labels_file: Path, tmp_path: Path
) -> None:
    assert_refused(classifier(classifier_file, labels_file, tmp_path / "models", *options), tmp_path / "models", said)


def test_vocabulary(captioner_file: Path, tmp_path: Path) -> None:
    (tmp_path / "words").write_text("\n".join(WORDS[:-1]))
    result = captioner(captioner_file, tmp_path / "words", tmp_path / "models")
    assert_refused(result, tmp_path / "models", "19 words, the network 20")
    (tmp_path / "words").write_text("\n".join(WORDS).replace("<end>", "stop"))
    result = captioner(captioner_file, tmp_path / "words", tmp_path / "models")
    assert_refused(result, tmp_path / "models", "lacks a token as <end>")


def test_the_other_task(classifier_file: Path, captioner_file: Path, labels_file: Path, tmp_path: Path) -> None:
    result = classifier(captioner_file, labels_file, tmp_path / "models")
    assert_refused(result, tmp_path / "models", "is a captioner")
    result = captioner(classifier_file, labels_file, tmp_path / "models")
    assert_refused(result, tmp_path / "models", "is a classifier")


def test_failed_parity_exits_1_and_writes_nothing(
    classifier_file: Path, labels_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace_right = classifier_export.trace_classifier

    def trace_other(network: ResNet, recipe: pb.ImageInput, activation: pb.ClassifierSpec.Activation) -> bytes:
        other = ResNet(network.config).eval().requires_grad_(False)
        return trace_right(other, recipe, activation)

    monkeypatch.setattr(classifier_export, "trace_classifier", trace_other)
    result = classifier(classifier_file, labels_file, tmp_path / "models")
    assert result.exit_code == 1
    assert "exceeds" in result.stderr
    assert not (tmp_path / "models").exists()


def test_weights_beyond_one_file(
    classifier_file: Path, labels_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_MAX_WEIGHT_BYTES", 1000)
    assert_refused(classifier(classifier_file, labels_file, tmp_path / "models"), tmp_path / "models", "at most 2 GB")


def test_weights_that_are_not_finite(network: ResNet, labels_file: Path, tmp_path: Path) -> None:
    torch.save({**network.state_dict(), "fc.bias": torch.full((len(LABELS),), torch.nan)}, tmp_path / "nan.pth")
    result = classifier(tmp_path / "nan.pth", labels_file, tmp_path / "models")
    assert result.exit_code == 1
    assert "PyTorch's own output is not finite" in result.stderr
    assert not (tmp_path / "models").exists()


def test_inspect(classifier_file: Path, captioner_file: Path, labels_file: Path) -> None:
    said = run("inspect", classifier_file)
    assert said.exit_code == 0
    assert "torchvision" in said.stdout
    assert "7 classes" in said.stdout
    assert "float32" in said.stdout
    assert "captions of 20 words" in run("inspect", captioner_file).stdout
    assert run("inspect", labels_file).exit_code == 2


def test_demo_asks_for_a_place() -> None:
    assert run("demo").exit_code == 2


def test_demo_models_and_samples(
    demo_repository: Path, video_repository: Path, samples: Path, truth: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    for repository in (demo_repository, video_repository):
        shutil.copytree(repository, tmp_path, dirs_exist_ok=True)
    tasks = {"digits": pb.TASK_CLASSIFIER, "scenes": pb.TASK_CAPTIONER, "gestures": pb.TASK_VIDEO_CLASSIFIER}
    for name, task in tasks.items():
        assert read_version(tmp_path / name / "1").manifest.task == task
    again = run("demo", "--repository", tmp_path)
    assert again.exit_code == 0, again.output
    assert again.stdout.count("already exported") == 3
    assert not (tmp_path / "digits" / "2").exists()
    clips = json.loads((samples / "clips" / "truth.json").read_text())
    assert len(clips) == 12
    assert all((samples / "clips" / name).is_file() for name in clips)
    assert json.loads((samples / "truth.json").read_text()) == truth
    assert all((samples / name).is_file() for name in truth)


def test_help_does_without_torch() -> None:
    code = (
        "import sys, resonnx_export.cli\n"
        "print([name for name in ('torch', 'onnx', 'onnxruntime') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
