"""What the folders of a repository show: which files, of which sizes and times, and the sums of their contents."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from resonnx_server.repository.scan import model_folders, version_number
from resonnx_server.runtime.model_files.files import NotReadable
from resonnx_server.runtime.model_files.sums import sum_of

# Entries of a folder beyond which it is not looked at.
_MOST_ENTRIES: Final = 10_000


@dataclass(frozen=True)
class Stamp:
    """The files of a folder by path: size in bytes, times of the last change of content and of status, and inode.

    Copies with the times of their originals, and folders that take each other's place, differ in the last two.
    """

    files: tuple[tuple[str, int, int, int, int], ...]

    @property
    def nbytes(self) -> int:
        """Size of all files."""
        return sum(size for _, size, *_ in self.files)

    def is_like(self, other: "Stamp") -> bool:
        """Whether the files are the same but for the times of their status, which links to them change as well."""
        return [(*file[:3], file[4]) for file in self.files] == [(*file[:3], file[4]) for file in other.files]


@dataclass(frozen=True)
class Seen:
    """A model's folder.

    Attributes:
        versions: Stamps by version; None for one that could not be looked at.
        beside: The files beside the versions, as config.toml.
    """

    versions: Mapping[int, Stamp | None]
    beside: Stamp


def survey(repository: Path, *, warns: bool = False) -> dict[str, Seen | None]:
    """Look at all models; None for one whose folder cannot be read. Takes as long as the file system.

    Args:
        repository: The repository.
        warns: Log which folders have no names of models.

    Raises:
        ModelRefused: The repository itself cannot be read, or it is a model's folder.
    """
    return {folder.name: look_at(folder) for folder in model_folders(repository, warns=warns)}


def look_at(folder: Path) -> Seen | None:
    """Look at one model's folder; None if it cannot be read."""
    try:
        versions = {number: entry for entry in folder.iterdir() if entry.is_dir() and (number := version_number(entry))}
        beside = Stamp(tuple(sorted(_file(entry.name, entry) for entry in folder.iterdir() if not entry.is_dir())))
    except OSError:
        return None
    return Seen({number: stamp(entry) for number, entry in versions.items()}, beside)


def stamp(folder: Path) -> Stamp | None:
    """Return the stamp of a version's folder; None if it cannot be looked at, or has too many files."""
    try:
        found = []
        for path in _walk(folder):
            found.append(_file(path.relative_to(folder).as_posix(), path))
            if len(found) > _MOST_ENTRIES:
                return None
    except OSError:
        return None
    return Stamp(tuple(sorted(found)))


def content_sum(folder: Path) -> str | None:
    """Return a sum of the names and contents of a version's files; None if one cannot be read."""
    total = hashlib.sha256()
    try:
        for path in sorted(_walk(folder)):
            name = path.relative_to(folder).as_posix().encode()
            total.update(b"%d %s %s" % (len(name), name, sum_of(path)))
    except (OSError, NotReadable):
        return None
    return total.hexdigest()


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder. Raises OSError if one of its folders cannot be read."""
    failed: list[OSError] = []
    for base, _, names in os.walk(folder, onerror=failed.append):
        if failed:
            raise failed[0]
        yield from (Path(base, name) for name in names)
    if failed:
        raise failed[0]


def _file(name: str, path: Path) -> tuple[str, int, int, int, int]:
    # Of what a link leads to: files of a Kubernetes volume are links.
    status = path.stat()
    return name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
