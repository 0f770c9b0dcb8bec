"""Reads the ONNX file of a version without a manifest, with its external data inside."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

from resonnx_server.errors import ModelRefused
from resonnx_server.repository.version import Version
from resonnx_server.runtime.machine.capability import compute_capability
from resonnx_server.runtime.model_files.external_data import with_external_data
from resonnx_server.runtime.model_files.files import ModelUnreadable, NotReadable, read_inside, read_regular
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE, MANIFEST, SUMS
from resonnx_server.runtime.model_files.sums import Vouch, accept_any, read_listed
from resonnx_server.runtime.session import GPU_PROVIDERS, PROVIDERS


class BareFile(NamedTuple):
    """An ONNX file: its name, its content with external data, and the sha256 of SHA256SUMS, or "" without one."""

    name: str
    content: bytes
    identity: str


def read_bare(version: Version) -> BareFile:
    """Return a version's ONNX file: model.onnx, or the one that its config.pbtxt names, for the GPU if it runs there.

    Raises:
        ModelRefused: It is missing, or it or its external data cannot be read; or there are trusted keys, and none has
            signed it.
    """
    declaration, provider = version.settings.declaration, PROVIDERS.get(version.settings.provider or "auto")
    name = (declaration.file if declaration else "") or CLASSIFIER_FILE
    # As in Triton, these are for GPUs only.
    if declaration and declaration.files_by_capability and provider in GPU_PROVIDERS:
        name = declaration.files_by_capability.get(compute_capability() or "", name)
    return read_folder(version.folder.path, name, version.vouch if version.trusted else None)


def read_folder(folder: Path, name: str = CLASSIFIER_FILE, vouch: Vouch | None = None) -> BareFile:
    """Return the ONNX file `name` of a folder. Where `vouch` is given, it must have a SHA256SUMS that `vouch` accepts.

    Raises:
        ModelRefused: As read_bare.
    """
    if (folder / SUMS).exists():
        identity, files, _ = read_listed(folder, vouch or accept_any)
        if name not in files:
            raise ModelRefused(f"{SUMS} lists neither a {MANIFEST} nor a {name}")
        return BareFile(name, files[name], identity)
    if vouch is not None:
        raise ModelRefused(f"it is not signed ({SUMS} is missing), and trusted_keys is set")
    if (folder / name / name).exists():
        # Triton's form of a file with external data: model.onnx/model.onnx beside the data.
        folder /= name
    try:
        content = read_regular(folder / name)
    except FileNotFoundError:
        raise ModelRefused(f"the version folder holds neither a {MANIFEST} nor a {name}") from None
    except OSError as error:
        raise ModelUnreadable(f"{name} cannot be read: {error.strerror}") from None
    except NotReadable as error:
        raise ModelRefused(f"{name} {error}") from None
    return BareFile(name, with_external_data(name, content, partial(_read_beside, folder, name)), "")


def _read_beside(folder: Path, file: str, path: str, max_bytes: int) -> bytes:
    name = f"{file}: its external data {path[:200]!r}"
    try:
        return read_inside(folder, path, max_bytes)
    except FileNotFoundError:
        raise ModelRefused(f"{name} is missing: put that file into the version's folder") from None
    except OSError as error:
        raise ModelUnreadable(f"{name} cannot be read: {error.strerror}") from None
    except NotReadable as error:
        raise ModelRefused(f"{name} {error}") from None
