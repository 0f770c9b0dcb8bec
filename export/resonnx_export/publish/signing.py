"""Signs versions of the model repository, so that a server with `trusted_keys` serves them.

The format is that of resonnx_server.runtime.model_files.signatures.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.files import NotReadable, read_regular
from resonnx_server.runtime.model_files.manifest import MODEL_NAME, SUMS
from resonnx_server.runtime.model_files.signatures import (
    SIGNATURES,
    Signature,
    dump_signatures,
    fingerprint_of,
    read_signatures,
    signed_message,
)
from resonnx_server.runtime.model_files.sums import read_listed

from resonnx_export.errors import BadInput
from resonnx_export.publish.package import versions

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_MAX_KEY_BYTES: Final = 16 << 10


def write_new_key(path: Path) -> tuple[Path, str]:
    """Make an Ed25519 key pair: the private key in `path`, readable by its owner only, the public one in `path`.pub.

    Both are PEM files (PKCS #8 and SubjectPublicKeyInfo).

    Returns:
        The public key's path, and its fingerprint.

    Raises:
        BadInput: A file exists, or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    public_path = path.with_name(f"{path.name}.pub")
    if public_path.exists():
        raise BadInput(f"{public_path} exists: choose another name")
    _create(path, private, 0o600)
    _create(public_path, public, 0o644)
    return public_path, fingerprint_of(key.public_key().public_bytes_raw())


def sign_version(folder: Path, key_path: Path) -> str:
    """Sign a version, MODELS/NAME/VERSION, after its files were compared with their sums.

    Signatures of other keys are kept.

    Returns:
        The key's fingerprint.

    Raises:
        BadInput: It is not a version's folder, a file is damaged or not listed, or there is no such key.
    """
    key = _read_private_key(key_path)
    folder = folder.resolve()
    if folder.parent.exists() and (numbers := versions(folder)) and not (folder / SUMS).exists():
        raise BadInput(f"{folder} is a model's folder; give a version's, {folder / str(numbers[-1])}")
    name, number = folder.parent.name, folder.name
    if MODEL_NAME.fullmatch(name) is None or not (number.isascii() and number.isdigit()) or number.startswith("0"):
        raise BadInput(f"{folder} is not a version's folder, MODELS/NAME/VERSION, whose name and version are signed")
    if not (folder / SUMS).exists():
        raise BadInput(
            f"{folder} has no {SUMS}: export the model (resonnx-export onnx), or list its files: "
            f"(cd {folder} && sha256sum * > {SUMS})"
        )
    try:
        identity = read_listed(folder).identity
        others = read_signatures(folder)
    except ModelRefused as error:
        raise BadInput(f"{folder}: {error}") from None
    fingerprint = fingerprint_of(key.public_key().public_bytes_raw())
    signature = Signature(fingerprint, key.sign(signed_message(name, int(number), identity)))
    kept = [each for each in others if each.fingerprint != fingerprint]
    _replace(folder / SIGNATURES, dump_signatures([*kept, signature]))
    return fingerprint


def _read_private_key(path: Path) -> "Ed25519PrivateKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(read_regular(path, _MAX_KEY_BYTES), password=None)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except NotReadable as error:
        raise BadInput(f"{path} {error}") from None
    except TypeError:
        raise BadInput(f"{path} is encrypted: decrypt it for this command (openssl pkey -in {path})") from None
    except (ValueError, UnsupportedAlgorithm):
        raise BadInput(f"{path} is not a private key in PEM form (-----BEGIN PRIVATE KEY-----)") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"{path} is not an Ed25519 key; `resonnx-export new-key` makes one")
    return key


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            file.write(content)
    except FileExistsError:
        raise BadInput(f"{path} exists: choose another name") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}") from None


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    # A name that neither the server nor SHA256SUMS counts cannot lie in the version's folder: beside it.
    staged = path.parent.parent / f".{path.parent.name}.{path.name}"
    try:
        with staged.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    except OSError as error:
        staged.unlink(missing_ok=True)
        raise BadInput(f"{path} cannot be written: {error.strerror}") from None
