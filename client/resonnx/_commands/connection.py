"""The options of commands that say how the server is reached."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from resonnx._clients.client import Client
from resonnx._commands.options import Server
from resonnx._transport.access import Access, Tls
from resonnx._transport.channel import server_address

_Key = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="API key. Other users may see it on the command line; default: $RESONNX_KEY."),
]
_KeyFile = Annotated[
    Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="File that holds the API key.")
]
_UseTls = Annotated[bool, typer.Option("--tls", help="Use TLS; implied by the next three.")]


@dataclass(frozen=True)
class Connection:
    """A server and how calls are admitted by it.

    Attributes:
        server: HOST:PORT.
        access: Key and TLS.
    """

    server: str
    access: Access

    def client(self, timeout_s: float) -> Client:
        """Return a client whose calls take at most `timeout_s`."""
        return Client.of(self.server, self.access, timeout_s)


def connecting(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command with a parameter `connection` the options of which one is made."""
    options = inspect.signature(_connection).parameters
    given: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        given += options.values() if parameter.name == "connection" else [parameter]

    @wraps(command)
    def connected(**values: Any) -> None:
        command(connection=_connection(**{name: values.pop(name) for name in options}), **values)

    # Those with defaults last, as Python has it.
    given.sort(key=lambda parameter: parameter.default is not inspect.Parameter.empty)
    connected.__signature__ = inspect.Signature(given)  # type: ignore[attr-defined]
    connected.__annotations__ = {parameter.name: parameter.annotation for parameter in given}
    return connected


def _connection(
    server: Server = None,
    key: _Key = None,
    key_file: _KeyFile = None,
    tls: _UseTls = False,
    ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", exists=True, dir_okay=False, help="Authorities of the server's certificate, PEM."),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE", exists=True, dir_okay=False, help="This client's certificate, PEM."),
    ] = None,
    client_key: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="Private key of --cert, PEM.")
    ] = None,
) -> Connection:
    if key is not None and key_file is not None:
        raise typer.BadParameter("give --key or --key-file, not both")
    try:
        if key_file is not None:
            key = key_file.read_text()
        files = Tls(ca, cert, client_key) if tls or ca or cert or client_key else None
        return Connection(server_address(server), Access.of(key, files, health_checks=False))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
