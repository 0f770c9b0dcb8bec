"""TLS of gRPC ports: the server's credentials, and the names in clients' certificates."""

from collections.abc import Iterable, Mapping
from typing import Final

import grpc

from resonnx_server.access.certificates import Certificates
from resonnx_server.access.reloaded import Reloaded

# In this order, as in gRPC's own identity of a peer. Older certificates have a common name only.
_NAMES: Final = ("x509_subject_alternative_name", "x509_common_name")


def server_credentials(certificates: Reloaded[Certificates]) -> grpc.ServerCredentials:
    """Return credentials for one port, with which each new connection uses the latest certificates."""
    used = certificates.value

    # Called by gRPC's threads, before each handshake; None is no change.
    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        latest = certificates.value
        if latest is used:
            return None
        used = latest
        return _configuration(latest)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(used),
        fetch,  # type: ignore[arg-type]  # its annotation lacks None
        require_client_authentication=used.client_ca is not None,
    )


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(certificates.key, certificates.chain)], certificates.client_ca)


def certificate_name(tls: Mapping[str, Iterable[bytes]]) -> str | None:
    """Return the name in a client's certificate by TLS's properties of the connection; None without a certificate."""
    for name in _NAMES:
        for value in tls.get(name, ()):
            return value.decode(errors="replace")
    return None
