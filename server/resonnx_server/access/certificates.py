"""The server's certificate and key, and the authorities of clients' certificates, from files."""

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resonnx_server.access.expiry import first_expiry
from resonnx_server.access.reloaded import Reloaded


class CertificatesFault(Exception):
    """Files that cannot be used. The message names them."""


@dataclass(frozen=True)
class Certificates:
    """One state of the files, which fit together.

    Attributes:
        chain: The server's certificate and those between it and its authority, PEM.
        key: The certificate's private key, PEM.
        client_ca: Authorities of clients' certificates, PEM; None if clients need none.
        context: The same for Python's TLS. Clients may leave out their certificates.
        expires_s: POSIX time at which the first certificate of the chain expires; None if it is not known.
    """

    chain: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext
    expires_s: float | None = None


def read_certificates(chain: Path, key: Path, client_ca: Path | None) -> Certificates:
    """Read the files.

    Raises:
        CertificatesFault: A file cannot be read, or the key is not the certificate's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A resumed connection would not ask again for a certificate, nor whether its authority is still trusted.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    try:
        # The password is that of an encrypted key, for which OpenSSL would ask on the terminal.
        context.load_cert_chain(chain, key, password="")
        authorities = None
        if client_ca is not None:
            authorities = client_ca.read_bytes()
            context.load_verify_locations(cadata=authorities.decode("ascii"))
            context.verify_mode = ssl.CERT_OPTIONAL
        content = chain.read_bytes()
        return Certificates(content, key.read_bytes(), authorities, context, first_expiry(content))
    except (OSError, ValueError, IndexError) as error:
        files = ", ".join(str(path) for path in (chain, key, client_ca) if path is not None)
        fault = str(error)
        if not isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            need = "a certificate, its private key without a password" + ", and authorities" * (client_ca is not None)
            fault = f"these must be PEM files of {need} ({fault})"
        raise CertificatesFault(f"TLS with {files}: {fault}") from None


def python_context(certificates: Reloaded[Certificates]) -> ssl.SSLContext:
    """Return a context for servers whose connections each use the latest certificates."""
    context = certificates.value.context

    # Called for each connection, whether or not the client names a server.
    def use_latest(connection: ssl.SSLObject, server: str | None, first: ssl.SSLContext) -> None:
        connection.context = certificates.value.context

    context.sni_callback = use_latest
    return context


def peer_name(certificate: Mapping[str, Sequence[Any]] | None) -> str | None:
    """Return the name in a client's certificate as Python's TLS gives it; None without a certificate.

    It is the first alternative name, or else the common name, as in gRPC's identity of a peer.
    """
    if not certificate:
        return None
    for _, name in certificate.get("subjectAltName", ()):
        return str(name)
    for relative in certificate.get("subject", ()):
        for kind, name in relative:
            if kind == "commonName":
                return str(name)
    return None
