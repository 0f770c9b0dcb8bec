"""`resonnx-export new-key` and `sign`."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from resonnx_export.errors import BadInput
from resonnx_export.publish.signing import sign_version, write_new_key
from resonnx_server.runtime.model_files.manifest import sha256sums
from resonnx_server.runtime.model_files.signatures import SIGNATURES, TrustedKeys


def _version(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"not read here")
    (folder / "SHA256SUMS").write_bytes(sha256sums({"model.onnx": b"not read here"}))
    return folder


def test_the_private_key_is_its_owners_and_none_is_overwritten(tmp_path: Path) -> None:
    public, fingerprint = write_new_key(tmp_path / "release")
    assert stat.S_IMODE((tmp_path / "release").stat().st_mode) == 0o600
    assert public == tmp_path / "release.pub"
    TrustedKeys.read([public])
    assert len(fingerprint) == 16
    kept = (tmp_path / "release").read_bytes()
    with pytest.raises(BadInput, match=r"release\.pub exists"):
        write_new_key(tmp_path / "release")
    public.unlink()
    with pytest.raises(BadInput, match="release exists"):
        write_new_key(tmp_path / "release")
    assert (tmp_path / "release").read_bytes() == kept


def test_a_second_signature_by_a_key_takes_the_place_of_its_first(tmp_path: Path) -> None:
    folder = _version(tmp_path / "m" / "1")
    write_new_key(tmp_path / "a")
    write_new_key(tmp_path / "b")
    first = sign_version(folder, tmp_path / "a")
    other = sign_version(folder, tmp_path / "b")
    assert sign_version(folder, tmp_path / "a") == first
    assert [line.split()[1] for line in (folder / SIGNATURES).read_text().splitlines()] == [other, first]
    assert {path.name for path in tmp_path.joinpath("m").iterdir()} == {"1"}


def test_what_cannot_be_signed_is_named(tmp_path: Path) -> None:
    write_new_key(tmp_path / "key")
    folder = _version(tmp_path / "m" / "1")
    with pytest.raises(BadInput, match="is not a version's folder, MODELS/NAME/VERSION"):
        sign_version(tmp_path, tmp_path / "key")
    with pytest.raises(BadInput, match=r"is a model's folder; give a version's, \S+/m/1"):
        sign_version(tmp_path / "m", tmp_path / "key")
    (folder / "SHA256SUMS").rename(tmp_path / "kept")
    with pytest.raises(BadInput, match="has no SHA256SUMS: export the model"):
        sign_version(folder, tmp_path / "key")
    (tmp_path / "kept").rename(folder / "SHA256SUMS")
    (folder / "model.onnx").write_bytes(b"changed")
    with pytest.raises(BadInput, match=r"'model\.onnx' is damaged"):
        sign_version(folder, tmp_path / "key")
    assert not (folder / SIGNATURES).exists()


def test_a_key_that_is_none_ends_in_one_line(tmp_path: Path) -> None:
    folder = _version(tmp_path / "m" / "1")
    write_new_key(tmp_path / "key")
    command = [sys.executable, "-m", "resonnx_export", "sign", str(folder), "--key", str(tmp_path / "key.pub")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "key.pub is not a private key in PEM form" in done.stderr
