"""The key that a client shows, and its TLS."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc

_KEY_VARIABLE: Final = "RESONNX_KEY"

Options = list[tuple[str, Any]]


@dataclass(frozen=True)
class Tls:
    """TLS between client and server.

    Attributes:
        ca: PEM file of the authorities that may vouch for the server; None for those that gRPC knows.
        certificate: PEM file of the client's certificate, where the server wants one; needs `key`.
        key: PEM file of the certificate's private key.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("TLS needs a certificate and its key, or neither")

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files. Raises OSError if one cannot be read."""
        ca, certificate, key = (
            None if file is None else Path(file).read_bytes() for file in (self.ca, self.certificate, self.key)
        )
        return grpc.ssl_channel_credentials(ca, key, certificate)


@dataclass(frozen=True)
class Access:
    """How calls are admitted by the server.

    Attributes:
        key: The API key; None for none.
        credentials: TLS's; None for no TLS.
        health_checks: Servers tell their health without a key.
    """

    key: str | None = field(default=None, repr=False)
    credentials: grpc.ChannelCredentials | None = field(default=None, repr=False)
    health_checks: bool = True

    @classmethod
    def of(cls, key: str | None, tls: "Tls | bool | None", *, health_checks: bool = True) -> "Access":
        """Return the access for a client's arguments.

        Args:
            key: The API key; None for $RESONNX_KEY, if it is set.
            tls: None and False for no TLS; True for a server whose certificate a known authority has signed.
            health_checks: Servers tell their health without a key.

        Raises:
            OSError: A file of `tls` cannot be read.
            ValueError: The key cannot be sent.
        """
        given = (key or os.environ.get(_KEY_VARIABLE) or "").strip()
        if not given.isascii() or not given.isprintable() or " " in given:
            raise ValueError("a key is ASCII text without spaces")
        options = Tls() if tls is True else tls or None
        return cls(given or None, None if options is None else options.credentials(), health_checks)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of each call."""
        return () if self.key is None else (("authorization", f"Bearer {self.key}"),)

    def channel(self, server: str, options: Options) -> grpc.Channel:
        """Return a blocking channel to a server."""
        if self.credentials is None:
            return grpc.insecure_channel(server, options=options)
        return grpc.secure_channel(server, self.credentials, options=options)

    def aio_channel(self, server: str, options: Options | None = None) -> grpc.aio.Channel:
        """Return an asyncio channel to a server."""
        if self.credentials is None:
            return grpc.aio.insecure_channel(server, options=options)
        return grpc.aio.secure_channel(server, self.credentials, options=options)


NO_ACCESS: Final = Access()
