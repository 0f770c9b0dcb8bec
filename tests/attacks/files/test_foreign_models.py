"""Malice in the model repository: versions that are unsigned, signed by others, moved, or changed after signing."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from resonnx_export.publish.signing import sign_version, write_new_key
from resonnx_server.runtime.model_files.manifest import sha256sums
from resonnx_server.runtime.model_files.signatures import SIGNATURES

from ...server import bare_graphs


def _sum(folder: Path) -> None:
    names = [path for path in folder.iterdir() if path.name not in ("SHA256SUMS", SIGNATURES)]
    (folder / "SHA256SUMS").write_bytes(sha256sums({path.name: path.read_bytes() for path in names}))


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Two private keys: the trusted one, and another."""
    for name in ("ours", "theirs"):
        write_new_key(tmp_path / name)
    return tmp_path / "ours", tmp_path / "theirs"


@pytest.fixture
def add(tmp_path: Path) -> Callable[[str], Path]:
    """Adds a version of a small model with sums, unsigned."""

    def version(name: str) -> Path:
        folder = tmp_path / "models" / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(bare_graphs.doubling())
        _sum(folder)
        return folder

    return version


def test_only_what_a_trusted_key_signed_is_served(start_server, tmp_path: Path, keys, add, demo_repository) -> None:
    ours, theirs = keys
    sign_version(add("good"), ours)
    both = add("by-both")
    sign_version(both, theirs)
    sign_version(both, ours)
    # With a manifest, whose check is another path.
    shutil.copytree(demo_repository / "digits", tmp_path / "models" / "digits")
    sign_version(tmp_path / "models" / "digits" / "1", ours)
    shutil.copytree(demo_repository / "digits", tmp_path / "models" / "unsigned-export")

    add("unsigned")
    (add("no-sums") / "SHA256SUMS").unlink()
    sign_version(add("foreign"), theirs)
    shutil.copytree(tmp_path / "models" / "good", tmp_path / "models" / "renamed")
    shutil.copytree(tmp_path / "models" / "good" / "1", tmp_path / "models" / "rolled-back" / "2")
    shutil.copy(tmp_path / "models" / "good" / "1" / SIGNATURES, add("borrowed"))
    changed = add("changed")
    sign_version(changed, ours)
    (changed / "model.onnx").write_bytes(bare_graphs.loop())
    summed = add("summed-again")
    sign_version(summed, ours)
    (summed / "model.onnx").write_bytes(bare_graphs.loop())
    _sum(summed)
    # The fingerprint of the trusted key with another's signature.
    forged = add("forged")
    sign_version(forged, theirs)
    line = (forged / SIGNATURES).read_text().split()
    trusted = (tmp_path / "models" / "good" / "1" / SIGNATURES).read_text().split()[1]
    (forged / SIGNATURES).write_text(f"{line[0]} {trusted} {line[2]}\n")
    (add("garbage") / SIGNATURES).write_bytes(b"\xff\x00" * 40)
    (add("large") / SIGNATURES).write_bytes(bytes(1 << 20))

    with start_server(tmp_path / "models", "--trusted-keys", f"{ours}.pub") as server:
        _, text = server.get("/readyz")
    served = {line.split()[1] for line in text.splitlines() if line.startswith("serving")}
    assert served == {"good", "by-both", "digits"}
    refused = [line.removeprefix("refused ") for line in text.splitlines() if line.startswith("refused ")]
    reasons = dict(line.split(" version ", 1) for line in refused)
    for name in ("unsigned", "unsigned-export", "no-sums"):
        assert "is not signed" in reasons[name], reasons
    assert "which trusted_keys does not have" in reasons["foreign"]
    for name in ("renamed", "rolled-back", "borrowed", "summed-again", "forged"):
        assert "is not of this version" in reasons[name], (name, reasons)
    assert "'model.onnx' is damaged" in reasons["changed"]
    assert "line 1 is not `ed25519 FINGERPRINT SIGNATURE`" in reasons["garbage"]
    assert "has 1048576 bytes" in reasons["large"]


def test_a_trusted_key_that_cannot_be_read_ends_the_start(tmp_path: Path, keys) -> None:
    """A server that is meant to refuse foreign models must not serve without its keys."""
    private, _ = keys
    (tmp_path / "models").mkdir()
    command = [sys.executable, "-m", "resonnx_server", "--repository", str(tmp_path / "models")]
    command += ["--trusted-keys", f"{private}.pub,{private}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    reason = f"{private} is not a public key in PEM form (-----BEGIN PUBLIC KEY-----)"
    assert (done.returncode, done.stderr) == (1, f"resonnx-server: trusted_keys: {reason}\n")
