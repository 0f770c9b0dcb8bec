"""Checks a repository: the settings of each model, and each version that would be served."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from resonnx_server.checking.versions import check_version
from resonnx_server.config import ModelSettings, Settings
from resonnx_server.declaration import DeclaredTensor
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.model_config.settings import SourcedSettings, sourced_settings
from resonnx_server.repository.scan import ModelFolder, scan
from resonnx_server.runtime.model_files.signatures import TrustedKeys
from resonnx_server.version_policy import VersionPolicy

_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Row:
    """A version, or a model without one ("").

    Attributes:
        is_good: The server would serve it.
        task: "" if it is not known.
        detail: What was found, or the reason to refuse it.
    """

    model: str
    version: str
    is_good: bool
    task: str
    detail: str


@dataclass(frozen=True)
class CheckedModel:
    """A model: its rows, and what its files give and do not give."""

    name: str
    rows: tuple[Row, ...]
    taken: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def check_repository(settings: Settings, trusted: TrustedKeys | None) -> Iterator[CheckedModel]:
    """Yield each model of the repository, by name.

    Raises:
        ModelRefused: The repository itself cannot be read.
    """
    for folder in scan(settings.repository):
        yield _check(settings.repository / folder.name, folder.name, settings, trusted)


def _check(folder: Path, name: str, server: Settings, trusted: TrustedKeys | None) -> CheckedModel:
    try:
        found = sourced_settings(folder, name, server)
        versions = served_versions(folder, found.settings)
    except ModelRefused as refused:
        return CheckedModel(name, (Row(name, "", False, "", refused.message),))
    rows = tuple(
        _row(ModelFolder(name, version, folder / str(version)), found, server, trusted) for version in versions
    )
    declaration = found.settings.declaration
    return CheckedModel(name, rows, tuple(_taken(found)), declaration.ignored if declaration else ())


def served_versions(folder: Path, settings: ModelSettings) -> list[int]:
    """Return the versions that would be served. Raises ModelRefused if there are none."""
    try:
        there = {int(entry.name) for entry in folder.iterdir() if _VERSION.fullmatch(entry.name) and entry.is_dir()}
    except OSError as error:
        raise ModelRefused(f"the model's folder cannot be read: {error.strerror}") from None
    if not there:
        raise ModelRefused("the model's folder has no version folder (a number, 1 or more) that can be read")
    served = VersionPolicy.parse(settings.version_policy).choose(there) | {*settings.labels.values()}
    if not served:
        raise ModelRefused(f"version_policy {settings.version_policy!r} chooses none of the versions {sorted(there)}")
    return sorted(served)


def _row(folder: ModelFolder, found: SourcedSettings, server: Settings, trusted: TrustedKeys | None) -> Row:
    try:
        checked = check_version(folder, found.settings, server, trusted)
    except ModelRefused as refused:
        return Row(folder.name, str(folder.version), False, "", refused.message)
    return Row(folder.name, str(folder.version), True, checked.task, checked.detail)


def _taken(found: SourcedSettings) -> Iterator[str]:
    """Yield what the files in a model's folder give."""
    for name, source in found.sources.items():
        if source.startswith("config."):
            yield f"{source}: {name} = {getattr(found.settings, name)}"
    declaration = found.settings.declaration
    if declaration is None:
        return
    yield from (f"{each.where}: input {_described(each)}" for each in declaration.inputs)
    yield from (f"{each.where}: output {_described(each)}" for each in declaration.outputs)
    if declaration.file:
        yield f"config.pbtxt: default_model_filename {declaration.file}"
    for capability, file in sorted(declaration.files_by_capability.items()):
        yield f"config.pbtxt: cc_model_filenames {capability} {file}"
    yield from (f"{each.where}: model_warmup {each.name}" for each in declaration.warm_ups)


def _described(tensor: DeclaredTensor) -> str:
    parts = [tensor.name, tensor.datatype, str(list(tensor.dims))]
    if tensor.reshape is not None:
        parts.append(f"in the graph {list(tensor.reshape)}")
    if tensor.layout:
        parts.append(tensor.layout)
    if tensor.optional:
        parts.append("optional")
    if tensor.label_file:
        parts.append(f"{len(tensor.labels)} labels of {tensor.label_file}")
    return ", ".join(parts)
