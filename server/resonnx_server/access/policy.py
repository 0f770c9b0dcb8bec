"""Rights of callers on each port, from the settings."""

import ssl
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from resonnx_server.access.certificates import Certificates, CertificatesFault, python_context, read_certificates
from resonnx_server.access.gate import Gate
from resonnx_server.access.keys import KeyRing, KeysFault, read_keys
from resonnx_server.access.reloaded import Reloaded
from resonnx_server.config import Settings


class AccessFault(Exception):
    """Settings or files that cannot be used. The message names the setting."""


class Policy:
    """The keys and the rules of all ports.

    Args:
        settings: The server's.

    Attributes:
        keys: None if none are set.
        certificates: None without TLS.
        open_health: Health needs no key.

    Raises:
        AccessFault: A file cannot be used, or settings do not fit together.
    """

    def __init__(self, settings: Settings) -> None:
        self.open_health = settings.open_health
        self.keys: Reloaded[KeyRing] | None = None
        self.certificates = _certificates(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        self._admin_on_main = settings.admin_on_main
        if settings.keys_file is not None:
            path = settings.keys_file
            try:
                self.keys = Reloaded([path], lambda: read_keys(path))
            except KeysFault as fault:
                raise AccessFault(str(fault)) from None
        elif settings.admin_on_main:
            raise AccessFault("admin_on_main needs keys_file: on the main port, admin methods need a key of role admin")
        elif settings.admin_port is not None and not _is_loopback(settings.admin_host):
            host = settings.admin_host
            raise AccessFault(f"admin_host {host!r} can be reached by others, so it needs keys_file; or use 127.0.0.1")

    @property
    def has_client_certificates(self) -> bool:
        """Whether clients show certificates that TLS verifies."""
        return self.certificates is not None and self.certificates.value.client_ca is not None

    @property
    def python_context(self) -> ssl.SSLContext | None:
        """TLS of the HTTP port; None without TLS."""
        return None if self.certificates is None else python_context(self.certificates)

    @property
    def main_gate(self) -> Gate:
        """The rules of the gRPC port for all, and of the HTTP port."""
        return Gate(self.keys, admits_admin=self._admin_on_main, needs_certificate=self.has_client_certificates)

    @property
    def admin_gate(self) -> Gate:
        """The rules of the admin port."""
        return Gate(self.keys, admits_admin=True, is_trusted=True)

    def reloaded(self) -> Iterator[Reloaded[Any]]:
        """Yield the parts that are reloaded when their files change."""
        if self.keys is not None:
            yield self.keys
        if self.certificates is not None:
            yield self.certificates


def _certificates(chain: Path | None, key: Path | None, client_ca: Path | None) -> Reloaded[Certificates] | None:
    if chain is None and key is None and client_ca is None:
        return None
    if chain is None or key is None:
        given = ", ".join(
            name
            for name, path in {"tls_certificate": chain, "tls_key": key, "tls_client_ca": client_ca}.items()
            if path is not None
        )
        raise AccessFault(f"TLS needs both tls_certificate and tls_key, but only {given} is set")
    paths = [chain, key] if client_ca is None else [chain, key, client_ca]
    try:
        return Reloaded(paths, lambda: read_certificates(chain, key, client_ca))
    except CertificatesFault as fault:
        raise AccessFault(str(fault)) from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
