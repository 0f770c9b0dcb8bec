"""Signatures of model versions: Ed25519 (RFC 8032) over the version's SHA256SUMS and its place in the repository.

SHA256SUMS.sig lies beside SHA256SUMS and has a line for each key: the algorithm, the key's fingerprint, the signature.

    ed25519 9f86d081884c7d65 MEUCIQ…==

What is signed names the model and the version, so that a signed version cannot take the place of another one.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.files import NotReadable, read_regular

# Imported where keys are configured only: it takes 30 ms and 8 MB.
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNATURES: Final = "SHA256SUMS.sig"
ALGORITHM: Final = "ed25519"
_CONTEXT: Final = "resonnx model version, signature format 1"
_LINE: Final = re.compile(rf"{ALGORITHM} ([0-9a-f]{{16}}) ([A-Za-z0-9+/]{{86}}==)")
_MOST_SIGNATURES: Final = 64
_MAX_BYTES: Final = 16 << 10
_MAX_KEY_BYTES: Final = 16 << 10


class BadKey(Exception):
    """A file that is no Ed25519 key. The message is a predicate with the file's name."""


@dataclass(frozen=True)
class Signature:
    """One line of SHA256SUMS.sig: the key's fingerprint, and the signature, 64 bytes."""

    fingerprint: str
    value: bytes


def signed_message(model: str, version: int, identity: str) -> bytes:
    """Return the bytes that are signed.

    Args:
        model: The model's name.
        version: Its version.
        identity: sha256 of SHA256SUMS, hex.
    """
    return f"{_CONTEXT}\nmodel {model}\nversion {version}\nsha256 {identity}\n".encode()


def fingerprint_of(public_key: bytes) -> str:
    """Return the fingerprint of a raw public key (32 bytes): the first 16 hex digits of its sha256."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def parse_signatures(content: bytes) -> list[Signature]:
    """Parse SHA256SUMS.sig. Raises ModelRefused if a line is malformed or there are too many."""
    lines = content.decode("ascii", "replace").splitlines()
    if len(lines) > _MOST_SIGNATURES:
        raise ModelRefused(f"{SIGNATURES} has {len(lines)} lines; {_MOST_SIGNATURES} are allowed")
    found = []
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        try:
            value = base64.b64decode(match[2], validate=True) if match else b""
        except binascii.Error:
            value = b""
        if match is None or len(value) != 64:
            raise ModelRefused(f"{SIGNATURES}: line {number} is not `{ALGORITHM} FINGERPRINT SIGNATURE`")
        found.append(Signature(match[1], value))
    return found


def dump_signatures(signatures: Sequence[Signature]) -> bytes:
    """Return the text of SHA256SUMS.sig that parse_signatures reads."""
    lines = (f"{ALGORITHM} {each.fingerprint} {base64.b64encode(each.value).decode()}\n" for each in signatures)
    return "".join(lines).encode()


def read_signatures(folder: Path) -> list[Signature]:
    """Return the signatures of a version; none if there is no SHA256SUMS.sig. Raises ModelRefused as above."""
    try:
        return parse_signatures(read_regular(folder / SIGNATURES, _MAX_BYTES))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ModelRefused(f"{SIGNATURES} cannot be read: {error.strerror}") from None
    except NotReadable as error:
        raise ModelRefused(f"{SIGNATURES} {error}") from None


class TrustedKeys:
    """Public keys of which one must have signed each version that is served.

    Args:
        keys: By fingerprint.
    """

    def __init__(self, keys: "dict[str, Ed25519PublicKey]") -> None:
        self._keys = keys

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Self:
        """Read public keys in PEM files, as `resonnx-export new-key` writes them. Raises BadKey, naming the file."""
        return cls(dict(map(_read_public_key, paths)))

    def signer(self, folder: Path, model: str, version: int, identity: str) -> str:
        """Return the fingerprint of a trusted key that has signed the version in `folder`.

        Args:
            folder: The version's folder.
            model: The model's name.
            version: Its version.
            identity: sha256 of the SHA256SUMS that was read, hex; the caller compares the files with it.

        Raises:
            ModelRefused: It is not signed, or by other keys only, or a trusted key's signature is not of this version.
        """
        from cryptography.exceptions import InvalidSignature

        signatures = read_signatures(folder)
        if not signatures:
            raise ModelRefused(f"it is not signed ({SIGNATURES} is missing), and trusted_keys is set")
        message = signed_message(model, version, identity)
        mine = [each for each in signatures if each.fingerprint in self._keys]
        for signature in mine:
            try:
                self._keys[signature.fingerprint].verify(signature.value, message)
            except InvalidSignature:
                continue
            return signature.fingerprint
        if mine:
            raise ModelRefused(
                f"the signature by {mine[0].fingerprint} is not of this version: {SIGNATURES} was made for another "
                "model, version or content"
            )
        signers = ", ".join(each.fingerprint for each in signatures[:4])
        raise ModelRefused(f"it is signed by {signers}, which trusted_keys does not have")


def _read_public_key(path: Path) -> "tuple[str, Ed25519PublicKey]":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(read_regular(path, _MAX_KEY_BYTES))
    except OSError as error:
        raise BadKey(f"{path} cannot be read: {error.strerror}") from None
    except NotReadable as error:
        raise BadKey(f"{path} {error}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise BadKey(f"{path} is not a public key in PEM form (-----BEGIN PUBLIC KEY-----)") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BadKey(f"{path} is not an Ed25519 key; `resonnx-export new-key` makes one")
    return fingerprint_of(key.public_bytes_raw()), key
