"""Finds the models of a repository, and their versions."""

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
    """The folder of a model's version.

    Attributes:
        name: The model's name.
        version: The version; 0 for a model without one.
        path: The version's folder.
        nbytes: Size of its files, as far as that is known.
    """

    name: str
    version: int
    path: Path
    nbytes: int = 0


def model_folders(repository: Path, *, warns: bool = False) -> list[Path]:
    """Return the folders of a repository's models, by name.

    Args:
        repository: The repository.
        warns: Log which folders have no names of models.

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
        if MODEL_NAME.fullmatch(folder.name) is not None:
            found.append(folder)
        elif warns:
            _log.warning("ignored a folder: its name is not a valid model name", extra={"folder": folder.name})
    return found


def scan(repository: Path) -> list[ModelFolder]:
    """Return the highest version of each model, by name. Raises ModelRefused as model_folders."""
    found = []
    for folder in model_folders(repository, warns=True):
        try:
            version = max((version_number(entry) for entry in folder.iterdir() if entry.is_dir()), default=0)
        except OSError:
            version = 0
        found.append(ModelFolder(folder.name, version, folder / str(version)))
    return found


def version_number(folder: Path) -> int:
    """Return the number of a version's folder; 0 if it is none."""
    # "01" would be version 1 again; longer numbers do not fit the protocol's int64.
    return int(folder.name) if _VERSION.fullmatch(folder.name) else 0


def _is_version(folder: Path) -> bool:
    return version_number(folder) > 0 and any(os.path.exists(folder / name) for name in (MANIFEST, CLASSIFIER_FILE))
