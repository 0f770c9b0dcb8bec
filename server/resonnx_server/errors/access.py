"""Callers that are not known, or may not do what they ask for."""

from resonnx_server.errors.base import ServerError


class Unauthenticated(ServerError):
    """Keys are set, and the caller did not show one that is known."""

    reason = "UNAUTHENTICATED"


class KeyMissing(Unauthenticated):
    """The call has no key."""

    reason = "KEY_MISSING"

    def __init__(self) -> None:
        super().__init__("this server needs a key: send the metadata `authorization: Bearer KEY`")


class KeyUnknown(Unauthenticated):
    """The call has a key that is not among the server's."""

    reason = "KEY_UNKNOWN"

    def __init__(self) -> None:
        super().__init__("the key in the metadata `authorization: Bearer KEY` is not among the server's keys")


class CertificateMissing(Unauthenticated):
    """No keys are set, and the caller has no certificate."""

    reason = "CERTIFICATE_MISSING"

    def __init__(self) -> None:
        super().__init__("this server needs a client certificate of an authority that it trusts")


class CertificateUnknown(Unauthenticated):
    """The call has no key, and the name in the client's certificate is not among the server's keys."""

    reason = "CERTIFICATE_UNKNOWN"

    def __init__(self) -> None:
        super().__init__("this server needs a key, or a client certificate that its keys file names")


class PermissionDenied(ServerError):
    """The caller is known, and may not do this. `caller` is its name, for the log; None if it is not known here."""

    reason = "PERMISSION_DENIED"
    caller: str | None = None


class RoleMissing(PermissionDenied):
    """The caller lacks the method's role."""

    reason = "ROLE_MISSING"

    def __init__(self, role: str, caller: str) -> None:
        super().__init__(f"this method needs a key with the role {role}")
        self.caller = caller


class AdminElsewhere(PermissionDenied):
    """An admin method is called on a port that does not serve these."""

    reason = "ADMIN_PORT_ONLY"

    def __init__(self, caller: str) -> None:
        super().__init__("this method is served on the admin port only (admin_port; or admin_on_main with a key)")
        self.caller = caller


class ModelNotAllowed(PermissionDenied):
    """The caller's key is limited to other models."""

    reason = "MODEL_NOT_ALLOWED"

    def __init__(self, model: str) -> None:
        super().__init__(f"this key may not use a model {model[:64]!r}")


class PriorityNotAllowed(PermissionDenied):
    """The caller's key does not allow so urgent a priority."""

    reason = "PRIORITY_NOT_ALLOWED"

    def __init__(self, priority: int, best: int) -> None:
        super().__init__(f"priority {priority} is more urgent than {best}, the most urgent that this key allows")
