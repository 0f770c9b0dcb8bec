"""Admits calls to methods of a gRPC port by their callers' keys, certificates and addresses."""

from collections.abc import Callable, Iterable, Mapping

from resonnx_server.access.caller import Caller, Role
from resonnx_server.access.gate import Gate
from resonnx_server.access.refusal_log import RefusalLog
from resonnx_server.errors import ServerError
from resonnx_server.observe.rejected import RejectedCalls
from resonnx_server.observe.requests.access_log import access_log, caller_of
from resonnx_server.observe.requests.identity import IDENTITY, Identity
from resonnx_server.rpc.boundary import rejection
from resonnx_server.rpc.credentials import certificate_name
from resonnx_server.rpc.fronts.call import Metadata
from resonnx_server.rpc.roles import HEALTH, ROLES

Tls = Callable[[], Mapping[str, Iterable[bytes]]]


class Admission:
    """Admits calls; thread-safe.

    Args:
        gate: The port's rules.
        rejected: Counts refused calls by reason.
        open_health: Health needs no key.
        has_certificates: Clients show certificates that TLS verifies.
    """

    def __init__(self, gate: Gate, rejected: RejectedCalls, *, open_health: bool, has_certificates: bool) -> None:
        self._gate = gate
        self._rejected = rejected
        self._has_certificates = has_certificates
        self._roles: dict[str, Role | None] = {**ROLES}
        if open_health:
            self._roles |= {path: None for path in ROLES if path.startswith(f"/{HEALTH}/")}
        self._log = RefusalLog()

    def __call__(self, path: str, peer: str, metadata: Metadata, tls: Tls) -> Caller:
        """Return the caller of a call of the method `path`.

        Raises:
            Rejected: It is refused.
        """
        given = []
        if self._gate.has_keys:
            given = [value for name, value in metadata if name == "authorization" and isinstance(value, str)]
        certificate = certificate_name(tls()) if self._has_certificates else None
        try:
            return self._gate.admit(self._roles.get(path, Role.ADMIN), peer, given, certificate)
        except ServerError as refused:
            # With its traceback, the error would hold this frame, and that it.
            error = refused.with_traceback(None)
        self._rejected.count(error)
        # Admitted on any thread, one after the other: calls that are served have identities of their own.
        before = IDENTITY.set(Identity(metadata, path))
        try:
            if access_log.is_on:
                access_log.ended(caller_of(error), error.reason, 0)
            self._log.write(error, path, peer)
            rejected = rejection(error)
        finally:
            IDENTITY.reset(before)
        raise rejected
