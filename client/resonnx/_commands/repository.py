"""`resonnx repo`: the server's model repository."""

import json
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer

from resonnx._clients.client import Client
from resonnx._commands.comparisons import canary, promote, rollback, status
from resonnx._commands.connection import Connection, connecting
from resonnx._commands.options import Json, Timeout, text
from resonnx._commands.outcomes import fail
from resonnx._commands.output import error_json, error_line
from resonnx._errors import PermissionDenied, ResonnxError, Unimplemented
from resonnx._results import RepositoryModel
from resonnx._table import table

repository = typer.Typer(no_args_is_help=True)

for command in (canary, promote, rollback, status):
    repository.command()(command)

_Name = Annotated[str, typer.Argument(metavar="NAME", callback=text, help="Name of the model.")]


@repository.callback()
def repo() -> None:
    """List, load and unload models of the server's repository, and prove new versions on live traffic.

    All but ls are served at the server's admin address (--server), and need an administrator's key if the server
    has keys.
    """


@repository.command("ls")
@connecting
def list_models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", callback=text, help="Only this model.")] = None,
    *,
    connection: Connection,
    ready: Annotated[bool, typer.Option("--ready", help="Only versions that serve.")] = False,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """List versions, unloaded and refused ones included, with their labels and states."""
    with connection.client(timeout) as client:
        try:
            found = [it for it in client.repository(ready=ready) if name in (None, it.name)]
            labels = _labels(client)
        except ResonnxError as error:
            _fail(client, error, as_json)
    if name is not None and not found:
        fail(f"the repository has no model {name!r}")
    _print(found, labels, as_json)


@repository.command()
@connecting
def load(name: _Name, *, connection: Connection, timeout: Timeout = 600.0, as_json: Json = False) -> None:
    """Load a model as its folder is now, and wait until its versions serve or are refused."""
    with connection.client(timeout) as client:
        try:
            client.load(name, timeout_s=timeout)
            found = [it for it in client.repository() if it.name == name]
            labels = _labels(client)
        except ResonnxError as error:
            _fail(client, error, as_json)
    _print(found, labels, as_json)


@repository.command()
@connecting
def unload(name: _Name, *, connection: Connection, timeout: Timeout = 600.0, as_json: Json = False) -> None:
    """Stop serving a model, and wait until its requests are answered and its memory is free."""
    with connection.client(timeout) as client:
        try:
            client.unload(name, timeout_s=timeout)
        except ResonnxError as error:
            _fail(client, error, as_json)
    typer.echo(json.dumps({"name": name, "state": "unloaded"}) if as_json else f"{name} is unloaded")


def _labels(client: Client) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return labels by name and version; none of another server of the protocol, which has no labels."""
    with suppress(Unimplemented, PermissionDenied):
        return {(it.name, str(it.version)): it.labels for it in client.models()}
    return {}


def _print(models: list[RepositoryModel], labels: dict[tuple[str, str], tuple[str, ...]], as_json: bool) -> None:
    rows = [(it, labels.get((it.name, it.version), ())) for it in models]
    if as_json:
        for it, its in rows:
            line: dict[str, Any] = {"name": it.name, "version": it.version, "labels": its}
            typer.echo(json.dumps(line | {"state": it.state, "reason": it.reason}))
        return
    lines = [("NAME", "VERSION", "LABELS", "STATE", "REASON")]
    lines += [(it.name, it.version or "-", ",".join(its) or "-", it.state, it.reason or "-") for it, its in rows]
    for text_line in table(lines):
        typer.echo(text_line)


def _fail(client: Client, error: ResonnxError, as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(json.dumps({"error": error_json(error)}))
        raise typer.Exit(1)
    fail(error_line(error, client.server))
