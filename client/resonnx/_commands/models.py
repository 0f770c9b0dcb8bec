"""`resonnx models`."""

import json
from typing import Annotated

import typer

from resonnx._clients.client import Client
from resonnx._commands.connection import Connection, connecting
from resonnx._commands.options import Json, Timeout, text
from resonnx._commands.outcomes import fail
from resonnx._commands.output import error_json, error_line, model_json, model_lines, model_row_json, models_lines
from resonnx._errors import NotFound, ResonnxError
from resonnx._results import ModelInfo, ModelSummary


@connecting
def models(
    name: Annotated[str | None, typer.Argument(callback=text, help="Describe this model in detail.")] = None,
    *,
    connection: Connection,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """List the server's models, or describe one."""
    with connection.client(timeout) as client:
        try:
            if name:
                info = client.model(name)
                lines = [json.dumps(model_json(info))] if as_json else model_lines(info)
            else:
                rows = [(summary, _details(client, summary)) for summary in client.models()]
                lines = [json.dumps(model_row_json(*row)) for row in rows] if as_json else models_lines(rows)
        except ResonnxError as error:
            if as_json:
                typer.echo(json.dumps({"error": error_json(error)}))
                raise typer.Exit(1) from None
            fail(error_line(error, client.server))
    for line in lines:
        typer.echo(line)


def _details(client: Client, summary: ModelSummary) -> ModelInfo | None:
    if summary.state != "ready":
        return None
    try:
        return client.model(summary.name, summary.version)
    except NotFound:  # Replaced since it was listed.
        return None
