"""`resonnx health`."""

import json
import time
from contextlib import closing
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from resonnx._clients.client import Client
from resonnx._commands.connection import Connection, connecting
from resonnx._commands.options import Json, Timeout, text
from resonnx._commands.outcomes import fail
from resonnx._commands.output import error_json, error_line
from resonnx._errors import NotFound, ResonnxError, Unavailable
from resonnx._results import Health

# Exit statuses besides 0, serving, and 1, a call that failed.
_NOT_SERVING: Final = 3
_UNKNOWN: Final = 4
# Between attempts to watch a server again that has gone.
_RECONNECT_S: Final = 1.0
_UNREACHABLE: Final = "unreachable"


@connecting
def health(
    model: Annotated[
        str | None,
        typer.Option(callback=text, metavar="NAME[:VERSION]", help="Of a model; a version is a number or a label."),
    ] = None,
    *,
    connection: Connection,
    watch: Annotated[
        bool, typer.Option("--watch", help="Print each change, also that the server is unreachable; until Ctrl-C.")
    ] = False,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Print whether the server, or a model, serves.

    Exit status: 0 it serves, 1 the server gives no answer, 3 it does not serve, 4 there is no such model.
    """
    try:
        with connection.client(timeout) as client:
            if watch:
                _watch(client, model, as_json)
            else:
                _check(client, model, as_json)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _check(client: Client, model: str | None, as_json: bool) -> None:
    try:
        status = client.health(model)
    except NotFound:
        status = Health.UNKNOWN
    except ResonnxError as error:
        if as_json:
            typer.echo(json.dumps({"model": model, "error": error_json(error)}))
            raise typer.Exit(1) from None
        fail(error_line(error, client.server))
    typer.echo(json.dumps({"model": model, "status": status}) if as_json else status)
    match status:
        case Health.NOT_SERVING:
            raise typer.Exit(_NOT_SERVING)
        case Health.UNKNOWN:
            raise typer.Exit(_UNKNOWN)


def _watch(client: Client, model: str | None, as_json: bool) -> None:
    """Print changes until the process is interrupted, or the server refuses to be watched."""
    shown = None

    def show(status: str) -> None:
        nonlocal shown
        if status != shown:
            at = datetime.now().astimezone().isoformat(timespec="milliseconds")
            line: dict[str, Any] = {"time": at, "model": model, "status": status}
            typer.echo(json.dumps(line) if as_json else f"{at}  {status}")
        shown = status

    while True:
        try:
            with closing(client.watch_health(model)) as statuses:
                for status in statuses:
                    show(status)
        except Unavailable:
            show(_UNREACHABLE)
        except ResonnxError as error:
            fail(error_line(error, client.server))
        time.sleep(_RECONNECT_S)
