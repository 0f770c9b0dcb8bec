"""API keys: named entries of a TOML file, which holds their hashes.

[keys.alice]
sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
roles = ["infer", "read"]

[keys.dashboard]
certificate = "dashboard.example"
roles = ["read"]
"""

import hashlib
import hmac
import re
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from resonnx_server.access.caller import DEFAULT_PRIORITY, OPEN_ROLES, Caller, Role

# Recognised by people and by scanners for secrets.
_PREFIX: Final = "resonnx_"
_SECRET_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_PRIORITY_LEVELS: Final = 8
# Of a file of keys: some 20,000 of them. A larger one would take the interpreter for seconds at each reload.
_MOST_BYTES: Final = 4 << 20

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class KeysFault(Exception):
    """A file of keys that cannot be used. The message names the file and the entry."""


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class KeyEntry(BaseModel):
    """An entry of the file: a key or the name of a client's certificate, and its rights.

    While a key is being replaced, `sha256` is a list of the old and the new one's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[tuple[Digest, ...], BeforeValidator(_listed)] = ()
    certificate: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    roles: Annotated[frozenset[Role], Field(min_length=1)] = OPEN_ROLES
    best_priority: Annotated[int, Field(ge=1, le=_PRIORITY_LEVELS)] = DEFAULT_PRIORITY
    models: frozenset[str] | None = None
    rate_per_s: Annotated[float, Field(gt=0, le=1e6)] | None = None
    max_concurrent: Annotated[int, Field(ge=1, le=1_000_000)] | None = None

    @model_validator(mode="after")
    def _has_one_proof(self) -> Self:
        if bool(self.sha256) == bool(self.certificate):
            raise ValueError("give either sha256 or certificate")
        return self

    def caller(self, name: str) -> Caller:
        """Return the caller that the entry `name` describes."""
        return Caller(
            f"key:{name}" if self.sha256 else f"cert:{self.certificate}",
            self.roles,
            self.best_priority,
            self.models,
            is_named=True,
            rate_per_s=self.rate_per_s,
            max_concurrent=self.max_concurrent,
        )


class KeyRing:
    """The keys and names of certificates of one state of the file.

    Args:
        by_digest: Callers by the SHA-256 of their keys.
        by_certificate: Callers by the name in their certificates.
    """

    def __init__(self, by_digest: Mapping[bytes, Caller], by_certificate: Mapping[str, Caller]) -> None:
        self._by_digest = {digest: (digest, caller) for digest, caller in by_digest.items()}
        self._by_certificate = by_certificate

    def of_key(self, key: str) -> Caller | None:
        """Return the caller with this key; None if there is none.

        The time taken tells nothing of the keys: a hash is looked up, which a caller cannot choose, in a
        table that is ordered by a secret of the process, and what is found is compared in constant time.
        """
        given = digest_of(key)
        found = self._by_digest.get(given)
        return found[1] if found is not None and hmac.compare_digest(found[0], given) else None

    def of_certificate(self, name: str) -> Caller | None:
        """Return the caller whose certificate has this name; None if there is none."""
        return self._by_certificate.get(name)


def new_key() -> str:
    """Return a new key of 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def digest_of(key: str) -> bytes:
    """Return the hash of a key, 32 bytes.

    A slow, salted hash protects passwords, which can be guessed. Nobody guesses 256 random bits, so one round of
    SHA-256 is as safe, and a wrong key costs the server a microsecond only.
    """
    # aiohttp gives bytes of a header that are not UTF-8 as surrogates.
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def read_entries(path: Path) -> dict[str, Any]:
    """Return the entries of a file of keys by their names, not yet checked.

    Raises:
        KeysFault: It cannot be read, or has other sections.
    """
    try:
        content = tomllib.loads(_content(path))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise KeysFault(f"keys file {path}: {error}") from None
    entries = content.get("keys", {})
    if not isinstance(entries, dict) or content.keys() - {"keys"}:
        raise KeysFault(f"keys file {path}: sections are [keys.NAME], and nothing else")
    return entries


def _content(path: Path) -> str:
    """Return the text of a file of keys. Raises OSError, UnicodeDecodeError or KeysFault."""
    # Opening a pipe would wait for its writer.
    if not path.is_file() and path.exists():
        raise KeysFault(f"keys file {path}: it is no regular file")
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise KeysFault(
            f"keys file {path}: it has more than {_MOST_BYTES} bytes; one entry takes about 200. Remove keys"
        )
    return content.decode()


def read_keys(path: Path) -> KeyRing:
    """Read a file of keys.

    Raises:
        KeysFault: It cannot be read, or an entry is not valid.
    """
    entries = read_entries(path)
    by_digest: dict[bytes, Caller] = {}
    by_certificate: dict[str, Caller] = {}
    for name, given in entries.items():
        entry = _entry(path, name, given)
        caller = entry.caller(name)
        for digest in map(bytes.fromhex, entry.sha256):
            if digest in by_digest:
                raise KeysFault(f"keys file {path}: [keys.{name}] has the key of {by_digest[digest].name}")
            by_digest[digest] = caller
        if entry.certificate is not None:
            if entry.certificate in by_certificate:
                raise KeysFault(f"keys file {path}: two entries have the certificate {entry.certificate!r}")
            by_certificate[entry.certificate] = caller
    if not by_digest and not by_certificate:
        raise KeysFault(f"keys file {path}: no keys; `resonnx-server keys new NAME --file FILE` makes one")
    return KeyRing(by_digest, by_certificate)


def _entry(path: Path, name: str, given: Any) -> KeyEntry:
    where = f"keys file {path}: [keys.{name}]"
    check_name(name, where)
    if not isinstance(given, dict):
        raise KeysFault(f"{where} must be a section (it is {given!r})")
    try:
        return KeyEntry(**given)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"])
        raise KeysFault(f"{where}{' ' * bool(field)}{field}: {fault['msg']}") from None


def check_name(name: str, where: str) -> None:
    """Raise KeysFault unless an entry may have this name."""
    if not _NAME.fullmatch(name):
        allowed = "letters, digits and . _ - @, at most 64, beginning with a letter or digit"
        raise KeysFault(f"{where}: a name has {allowed}")
