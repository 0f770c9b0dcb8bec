"""The `resonnx` command: results go to stdout, errors to stderr in one line each.

Exit status: 0 all well, 1 something failed, 2 wrong usage.
"""

import io
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from resonnx_proto import __version__

from resonnx._asking import Result, ask_all, fail, stream_all
from resonnx._caption_options import CaptionOptions
from resonnx._client import Client
from resonnx._errors import InvalidArgument, NotFound, ResonnxError
from resonnx._options import Images, Json, Model, Server, Timeout, inputs, text
from resonnx._output import (
    error_json,
    error_line,
    model_json,
    model_lines,
    model_row_json,
    models_lines,
)
from resonnx._pictures.attention import NothingToDraw, draw_attention
from resonnx._results import CaptionResult, ModelInfo, ModelSummary
from resonnx.bench.command import bench

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names need not be text, nor labels fit the terminal's encoding.
        sys.stdout.reconfigure(errors="backslashreplace")
    app(prog_name="resonnx")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"resonnx {__version__}")
        raise typer.Exit


@app.callback()
def resonnx(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Ask a resonnx server what pictures show."""


app.command()(bench)


@app.command()
def classify(
    images: Images,
    model: Model,
    server: Server = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, max=2**32 - 1, metavar="K", help="Labels a picture (5, or all if fewer).")
    ] = None,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Print each picture's labels and their probabilities, best first."""

    def ask(client: Client, picture: bytes) -> Result:
        return client.classify(picture, model, top_k=top_k)

    ask_all(ask, inputs(images), server, timeout, as_json)


@app.command()
def caption(
    images: Images,
    model: Model,
    server: Server = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print words as they come.")] = False,
    beam_width: Annotated[
        int | None, typer.Option(min=1, max=10, metavar="WIDTH", help="Captions searched side by side.")
    ] = None,
    captions: Annotated[
        int, typer.Option(min=1, max=10, metavar="N", help="Captions a picture, best first; up to --beam-width.")
    ] = 1,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, max=2**32 - 1, metavar="N", help="Where to stop, the end included.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="Above 0, draw words at random.")] = 0.0,
    seed: Annotated[int | None, typer.Option(min=0, max=2**64 - 1, help="The same seed draws the same words.")] = None,
    attention: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="FILE", help="Draw where the model looked, word by word.")
    ] = None,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Print a sentence for each picture."""
    if stream and (as_json or captions > 1):
        raise typer.BadParameter("--stream prints one caption's words: no --json, no --captions")
    pictures = inputs(images)
    if attention is not None and (stream or len(pictures.names) != 1):
        raise typer.BadParameter("--attention draws one picture's words, and not with --stream")
    options = CaptionOptions(num_captions=captions, temperature=temperature, attention=attention is not None)
    if beam_width is not None:
        options["beam_width"] = beam_width
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    if seed is not None:
        options["seed"] = seed

    def ask(client: Client, picture: bytes) -> Result:
        result = client.caption(picture, model, **options)
        if attention is not None:
            _draw(client, picture, result, attention)
        return result

    if stream:
        stream_all(pictures, model, server, timeout, options)
    else:
        ask_all(ask, pictures, server, timeout, as_json)


def _draw(client: Client, picture: bytes, result: CaptionResult, file: Path) -> None:
    model = client.model(result.model, result.version)
    try:
        draw_attention(picture, result, model, file)
    except (NothingToDraw, OSError, ValueError) as error:
        raise InvalidArgument(f"{file}: {error}") from None


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(callback=text, help="Show this one in detail.")] = None,
    server: Server = None,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """List the server's models, or describe one."""
    with Client(server, timeout_s=timeout) as client:
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
