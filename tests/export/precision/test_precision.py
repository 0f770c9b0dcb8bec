"""The demonstration models in int8 and fp16: what they keep, and that the server takes them."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from resonnx import Client
from resonnx_export import verification
from resonnx_export.cli import app
from resonnx_export.demo import WEIGHTS, resize, samples
from resonnx_export.demo.digits import INPUT_SIZE, LABELS
from resonnx_export.demonstration import export_demo
from resonnx_export.proof.parity import open_session
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.golden_examples import judge_logits, parse_golden
from resonnx_server.runtime.model_files.manifest import VersionFiles, dump_manifest, read_version, sha256sums
from typer.testing import CliRunner, Result

from ...conftest import StartServer

# Exports both demonstration models twice; test_commands.py exports smaller ones.
pytestmark = pytest.mark.slow

_STORED = {"int8": pb.PRECISION_INT8, "fp16": pb.PRECISION_FP16}


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demonstration models in int8 and in fp16."""
    folders = {precision: tmp_path_factory.mktemp(precision) for precision in ("int8", "fp16")}
    assert list(export_demo(folders["int8"], retrain=False, precision="int8"))
    assert list(export_demo(folders["fp16"], retrain=False, precision="fp16"))
    return folders


def version(repository: Path, name: str) -> VersionFiles:
    return read_version(repository / name / "1")


def digits_right(repository: Path) -> int:
    """How many held-out digits are named rightly, of 360."""
    pictures, labels = zip(*samples.digits(), strict=True)
    images = np.stack([resize(picture, INPUT_SIZE) for picture in pictures])
    assert len(images) == 360
    logits = open_session(version(repository, "digits").files["model.onnx"]).run({"image": images})["logits"]
    return sum(LABELS[i] == label for i, label in zip(logits.argmax(axis=1), labels, strict=True))


def test_digits_stay_as_right_in_int8(repositories: dict[str, Path], demo_repository: Path) -> None:
    lost = digits_right(demo_repository) - digits_right(repositories["int8"])
    assert 100 * lost / 360 <= 0.5


@pytest.mark.parametrize("precision", ["int8", "fp16"])
@pytest.mark.parametrize(("name", "file"), [("digits", "model.onnx"), ("scenes", "encoder.onnx")])
def test_manifest_tells_the_precision_and_its_cost(
    repositories: dict[str, Path], demo_repository: Path, precision: str, name: str, file: str
) -> None:
    files = version(repositories[precision], name)
    manifest = files.manifest
    assert dict(manifest.stored) == {file: _STORED[precision]}
    bounds = {(bound.file, bound.precision): bound.max_deviation for bound in manifest.precisions}
    assert [key for key in bounds if key[0] == file] == [(file, _STORED[precision])]
    assert 5e-4 <= bounds[file, _STORED[precision]] <= 0.1
    assert len(files.files[file]) < len(version(demo_repository, name).files[file]) / 1.7
    # The proof of the graph in float32 is still there, with what was measured after it.
    proved = [check for check in manifest.parity.checks if "not optimised" in check.name]
    assert proved
    assert all(check.max_abs_difference <= check.bound for check in proved)
    (measured,) = manifest.parity.agreements
    assert (measured.file, measured.precision) == (file, _STORED[precision])
    assert measured.identical == measured.pictures
    # The bound is twice what was measured, times 1e-6 for its way through float32.
    assert measured.max_abs_difference <= measured.bound / 2 * (1 + 1e-6)
    assert measured.HasField("right") == ((name, precision) == ("digits", "int8"))


def test_golden_digits_are_pytorchs_and_agree(repositories: dict[str, Path], demo_repository: Path) -> None:
    for repository in repositories.values():
        files = version(repository, "digits")
        golden = parse_golden(files.files["golden.npz"])
        assert golden.logits is not None
        fp32 = open_session(version(demo_repository, "digits").files["model.onnx"]).run({"image": golden.images})
        assert judge_logits(golden.logits, fp32["logits"], 1e-4).passed
        reduced = open_session(files.files["model.onnx"]).run({"image": golden.images})
        assert judge_logits(golden.logits, reduced["logits"], files.manifest.precisions[0].max_deviation / 2).passed


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_server_takes_and_serves(
    repositories: dict[str, Path],
    start_server: StartServer,
    samples: Path,
    truth: dict[str, dict[str, str]],
    precision: str,
) -> None:
    with start_server(repositories[precision], "--strict", "--provider", "cpu") as server:
        assert f"CPUExecutionProvider/{precision}" in server.log.read_text()
        with Client(server.grpc) as client:
            for name, expected in list(truth.items())[:8]:
                file = samples / name
                if expected["model"] == "digits":
                    assert client.classify(file, "digits").predictions[0].label == expected["label"]
                else:
                    assert client.caption(file, "scenes").captions[0].text == expected["caption"]
        assert server.stop() == 0


def test_demo_is_exported_once_a_precision(repositories: dict[str, Path]) -> None:
    again = dict(export_demo(repositories["int8"], retrain=False, precision="int8"))
    assert again == {"digits": None, "scenes": None, "gestures": None}


def verify(repository: Path, name: str) -> Result:
    weights = WEIGHTS / f"{name}.safetensors"
    return CliRunner().invoke(app, ["verify", str(repository / name / "1"), "--checkpoint", str(weights)])


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_verify_holds_the_reduced_graph_against_the_checkpoint(repositories: dict[str, Path], precision: str) -> None:
    digits, scenes = (verify(repositories[precision], name) for name in ("digits", "scenes"))
    assert digits.exit_code == scenes.exit_code == 0, digits.output + scenes.output
    said = f"model.onnx in {precision} against PyTorch in float32, 8 golden pictures: every clear top class the same"
    assert said in digits.stdout
    assert f"encoder.onnx in {precision} against PyTorch in float32" in scenes.stdout
    assert "decoder.onnx equal to PyTorch's: 16 checks passed, damaged copy refused" in scenes.stdout


def test_verify_refuses_what_breaks_its_bound(
    repositories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / "digits" / "1"
    shutil.copytree(repositories["int8"] / "digits" / "1", folder)
    files = read_version(folder)
    files.manifest.precisions[0].max_deviation = 1e-4
    contents = {**files.files, "manifest.json": dump_manifest(files.manifest)}
    (folder / "manifest.json").write_bytes(contents["manifest.json"])
    (folder / "SHA256SUMS").write_bytes(sha256sums(contents))
    refused = verify(tmp_path / "models", "digits")
    assert refused.exit_code == 1
    # Whichever provider of this machine is judged first.
    assert re.search(r"model\.onnx on \w+ExecutionProvider/\w+: max\|delta\|", refused.stderr), refused.stderr
    # Were the providers' answers not judged at all, PyTorch's would still be.
    monkeypatch.setattr(verification, "verified_runs", lambda *_: ())
    refused = verify(tmp_path / "models", "digits")
    assert refused.exit_code == 1
    assert "model.onnx in int8 against PyTorch in float32: max|delta|" in refused.stderr
