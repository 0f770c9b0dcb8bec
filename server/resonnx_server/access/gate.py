"""Decides who a caller is and whether it may call a method, before its request is received."""

from typing import Final

from resonnx_server.access.caller import OPEN_ROLES, Caller, Role, unnamed
from resonnx_server.access.keys import KeyRing
from resonnx_server.access.reloaded import Reloaded
from resonnx_server.errors import (
    AdminElsewhere,
    CertificateMissing,
    CertificateUnknown,
    KeyMissing,
    KeyUnknown,
    RoleMissing,
)

# An address may do anything where it reaches the port of the admin methods and no keys are set.
_ALL_ROLES: Final = frozenset(Role)
_SCHEME: Final = "bearer"


class Gate:
    """The rules of one port. Thread-safe.

    Args:
        keys: The keys; None if none are set: then callers are known by certificate or address.
        admits_admin: Whether methods of the role `admin` may be called on this port at all.
        is_trusted: Whether a caller on this port has every role where no keys are set.
        needs_certificate: Where no keys are set, a caller needs a certificate.

    Attributes:
        has_keys: Whether headers of calls are read.
    """

    def __init__(
        self,
        keys: Reloaded[KeyRing] | None,
        *,
        admits_admin: bool,
        is_trusted: bool = False,
        needs_certificate: bool = False,
    ) -> None:
        self._keys = keys
        self.has_keys = keys is not None
        self._admits_admin = admits_admin
        self._is_trusted = is_trusted
        self._needs_certificate = needs_certificate

    def admit(self, role: Role | None, peer: str, authorizations: list[str], certificate: str | None) -> Caller:
        """Return the caller.

        Args:
            role: What the method needs; None for one that is open to all.
            peer: gRPC's address of the client, such as "ipv4:203.0.113.7:41234".
            authorizations: Values of the header `authorization`.
            certificate: The name in the client's certificate, which TLS has verified; None if it gave none.

        Raises:
            Unauthenticated: Keys are set, and the caller has none that is known.
            PermissionDenied: The caller may not call the method, or not on this port.
        """
        if role is None:
            return unnamed(peer)
        caller = self._caller(peer, authorizations, certificate)
        if role is Role.ADMIN and not self._admits_admin:
            raise AdminElsewhere(caller.name)
        if role not in caller.roles:
            raise RoleMissing(role, caller.name)
        return caller

    def _caller(self, peer: str, authorizations: list[str], certificate: str | None) -> Caller:
        if self._keys is None:
            if certificate is not None:
                caller = Caller(f"cert:{certificate}", OPEN_ROLES, is_named=True)
            elif self._needs_certificate:
                raise CertificateMissing
            else:
                caller = unnamed(peer)
            return _with_all_roles(caller) if self._is_trusted else caller
        ring = self._keys.value
        found: Caller | None
        if authorizations:
            # perf_analyzer passes on the space after a header's colon.
            scheme, _, key = authorizations[0].strip().partition(" ")
            found = ring.of_key(key.strip()) if scheme.lower() == _SCHEME and len(authorizations) == 1 else None
            if found is None:
                raise KeyUnknown
            return found
        if certificate is None:
            raise KeyMissing
        found = ring.of_certificate(certificate)
        if found is None:
            raise CertificateUnknown
        return found


def _with_all_roles(caller: Caller) -> Caller:
    return Caller(caller.name, _ALL_ROLES, is_named=caller.is_named)
