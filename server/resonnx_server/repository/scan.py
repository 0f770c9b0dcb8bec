"""Finds the models of a repository, and each one's version to serve: the highest."""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE, MANIFEST, MODEL_NAME

_log = logging.getLogger(__name__)

_VERSION = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder in the repository.

    Attributes:
        name: The model's name.
        version: Its highest version; 0 without a version folder.
        path: The version's folder.
    """

    name: str
    version: int
    path: Path


def scan(repository: Path) -> list[ModelFolder]:
    """List the repository's models by name.

    Raises:
        ModelRefused: The repository itself cannot be read, or it is a model's folder.
    """
    try:
        folders = sorted(entry for entry in repository.iterdir() if entry.is_dir())
    except OSError as error:
        raise ModelRefused(f"repository {str(repository)!r}: {error.strerror}") from None
    if folders and all(_is_version(folder) for folder in folders):
        raise ModelRefused(f"repository {str(repository)!r}: this is one model's folder; give the folder above it")
    found = []
    for folder in folders:
        if folder.name.startswith("."):
            continue
        if MODEL_NAME.fullmatch(folder.name) is None:
            _log.warning("ignored a folder: its name is not a valid model name", extra={"folder": folder.name})
            continue
        try:
            version = max((_version(entry) for entry in folder.iterdir() if entry.is_dir()), default=0)
        except OSError:
            # Its load is refused; other models serve.
            version = 0
        found.append(ModelFolder(folder.name, version, folder / str(version)))
    return found


def _is_version(folder: Path) -> bool:
    return _version(folder) > 0 and any(os.path.exists(folder / name) for name in (MANIFEST, CLASSIFIER_FILE))


def _version(folder: Path) -> int:
    # "01" would be version 1 again; longer numbers do not fit the protocol's int64.
    return int(folder.name) if _VERSION.fullmatch(folder.name) else 0
