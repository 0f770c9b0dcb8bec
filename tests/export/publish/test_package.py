"""Versions appear whole or not at all, and their sums can be checked by `sha256sum -c`."""

import shutil
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest
from resonnx_export.errors import BadInput
from resonnx_export.options import Target
from resonnx_export.pictures.recipe import image_input
from resonnx_export.precision.bounds import fp32_bound
from resonnx_export.publish import package
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.golden_examples import Golden, parse_golden
from resonnx_server.runtime.model_files.manifest import SUMS, read_version

FILES = {"model.onnx": b"graph", "SHA256SUMS": b"sums"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_version_is_what_the_server_reads(tmp_path: Path) -> None:
    manifest = pb.Manifest(
        schema_version=1,
        task=pb.TASK_CLASSIFIER,
        input=image_input(8, resize_short_side=9),
        classifier=pb.ClassifierSpec(labels=["a", "b"], feature_size=3),
        precisions=[fp32_bound("model.onnx")],
    )
    golden = Golden(np.zeros((1, 8, 8, 3), np.uint8), logits=np.ones((1, 2), np.float32))
    folder = tmp_path / "models" / "m" / "1"
    package.write(folder, package.version_files({"model.onnx": b"graph"}, manifest, golden, "<p>"), overwrite=False)
    read = read_version(folder)
    assert read.manifest == manifest
    assert read.files["model.onnx"] == b"graph"
    assert np.array_equal(parse_golden(read.files["golden.npz"]).images, golden.images)
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((tmp_path / "models").stat().st_mode)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["m"]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_sha256sum_reads_the_sums(tmp_path: Path) -> None:
    manifest = pb.Manifest(
        schema_version=1,
        task=pb.TASK_CLASSIFIER,
        input=image_input(8, resize_short_side=None),
        classifier=pb.ClassifierSpec(labels=["a"]),
        precisions=[fp32_bound("model.onnx")],
    )
    golden = Golden(np.zeros((1, 8, 8, 3), np.uint8), logits=np.ones((1, 1), np.float32))
    folder = tmp_path / "m" / "1"
    package.write(folder, package.version_files({"model.onnx": b"graph"}, manifest, golden, "<p>"), overwrite=False)
    command = ["sha256sum", "--check", "--strict", SUMS]
    listed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert sorted(listed.split()[::2]) == ["golden.npz:", "manifest.json:", "model.onnx:", "report.html:"]
    (folder / "model.onnx").write_bytes(b"grapf")
    assert subprocess.run(command, cwd=folder, capture_output=True).returncode == 1


def test_the_default_version_is_the_next(tmp_path: Path) -> None:
    assert package.plan(Target(tmp_path, "m")) == tmp_path / "m" / "1"
    for name in ("2", "10", "007", "latest", ".staging-1"):
        (tmp_path / "m" / name).mkdir(parents=True)
    assert package.plan(Target(tmp_path, "m")) == tmp_path / "m" / "11"
    assert package.versions(tmp_path / "m") == [2, 10]


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a b", "é", "x" * 65, "m\n"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="model name"):
        package.plan(Target(tmp_path, name))


def test_an_existing_version_is_refused_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "m" / "3"
    package.write(folder, {"old": b"1"}, overwrite=False)
    with pytest.raises(BadInput, match="exists"):
        package.plan(Target(tmp_path, "m", version=3))
    with pytest.raises(BadInput, match="exists"):
        package.write(folder, FILES, overwrite=False)
    assert contents(tmp_path) == {"m/3/old": b"1"}


def test_overwrite_replaces_all_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "m" / "3"
    package.write(folder, {"old": b"1"}, overwrite=False)
    assert package.plan(Target(tmp_path, "m", version=3, overwrite=True)) == folder
    package.write(folder, FILES, overwrite=True)
    assert contents(tmp_path) == {f"m/3/{name}": content for name, content in FILES.items()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(package.os, "fsync", full)
    with pytest.raises(BadInput, match="No space left"):
        package.write(tmp_path / "models" / "m" / "1", FILES, overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_overwrite_keeps_the_old_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "m" / "1"
    package.write(folder, {"old": b"1"}, overwrite=False)
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(BadInput, match="Input/output"):
        package.write(folder, FILES, overwrite=True)
    assert contents(tmp_path) == {"m/1/old": b"1"}


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(package.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        package.write(tmp_path / "models" / "m" / "1", FILES, overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_a_repository_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(BadInput, match="not a folder"):
        package.plan(Target(tmp_path / "models", "m"))
