"""Writes a version into the model repository: staged beside it, synced, then renamed into place.

A reader sees the whole version or none of it, and a failure leaves nothing behind.
"""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.drift_reference import DRIFT
from resonnx_server.runtime.model_files.golden_examples import Golden, dump_golden
from resonnx_server.runtime.model_files.manifest import GOLDEN, MANIFEST, MODEL_NAME, SUMS, dump_manifest, sha256sums

from resonnx_export.errors import BadInput
from resonnx_export.options import Target

REPORT: Final = "report.html"


@dataclass(frozen=True)
class Exported:
    """A written version: folder, manifest, sizes of the files in bytes by name, and lines for the user."""

    folder: Path
    manifest: pb.Manifest
    sizes: Mapping[str, int]
    notes: tuple[str, ...] = ()


def plan(target: Target) -> Path:
    """Return the version's folder; called before the export, so that bad targets are refused at once.

    Raises:
        BadInput: The name is not valid, the repository is no folder or not writable, or the version exists.
    """
    if MODEL_NAME.fullmatch(target.name) is None:
        raise BadInput(f"model name {target.name!r} does not match {MODEL_NAME.pattern}")
    if target.version is not None and target.version < 1:
        raise BadInput(f"version {target.version} is not a positive number")
    model = target.repository / target.name
    existing = next(path for path in (model, *model.parents) if path.exists())
    if not existing.is_dir():
        raise BadInput(f"{existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise BadInput(f"{existing} is not writable")
    folder = model / str(target.version or max(versions(model), default=0) + 1)
    if folder.exists() and not target.overwrite:
        raise BadInput(f"{folder} exists; choose another version or pass --overwrite")
    return folder


def versions(model: Path) -> list[int]:
    """List a model's versions in ascending order: the entries of its folder that are positive numbers."""
    if not model.is_dir():
        return []
    names = (entry.name for entry in model.iterdir())
    return sorted(int(name) for name in names if name.isascii() and name.isdigit() and not name.startswith("0"))


def version_files(
    onnx_files: Mapping[str, bytes], manifest: pb.Manifest, golden: Golden, report: str, drift: bytes | None = None
) -> dict[str, bytes]:
    """Return the content of every file of a version, SHA256SUMS last."""
    files = {
        **onnx_files,
        MANIFEST: dump_manifest(manifest),
        GOLDEN: dump_golden(golden),
        REPORT: report.encode(errors="replace"),
        **({} if drift is None else {DRIFT: drift}),
    }
    return {**files, SUMS: sha256sums(files)}


def write(folder: Path, files: Mapping[str, bytes], *, overwrite: bool) -> None:
    """Write a version folder, <repository>/<name>/<version>, whole or not at all.

    Raises:
        BadInput: The folder cannot be written, or exists by now and `overwrite` is not set.
    """
    created = [path for path in folder.parents if not path.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _staging(folder.parent.parent) as staging:
            _stage_and_rename(folder, files, staging, overwrite)
    except BaseException as error:
        for path in created:
            _remove_if_empty(path)
        if not isinstance(error, OSError):
            raise
        if folder.exists() and not overwrite:
            raise BadInput(f"{folder} exists; choose another version or pass --overwrite") from None
        raise BadInput(f"{folder} cannot be written: {error.strerror}") from None


def _stage_and_rename(folder: Path, files: Mapping[str, bytes], staging: Path, overwrite: bool) -> None:
    new, old = staging / "new", staging / "old"
    new.mkdir()
    for name, content in files.items():
        _write_synced(new / name, content)
    _sync_folder(new)
    if overwrite and folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)  # fails if the folder exists with anything in it
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    _sync_folder(folder.parent)
    _sync_folder(folder.parent.parent)


@contextmanager
def _staging(repository: Path) -> Iterator[Path]:
    """Make a folder in the repository with a name that no model can have, and delete it afterwards.

    tempfile's folders are readable by their owner only, but the server may run as another user.
    """
    staging = repository / f".staging-{secrets.token_hex(8)}"
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
