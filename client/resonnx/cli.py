"""The `resonnx` command: results go to stdout, errors to stderr in one line each.

Exit status: 0 all well, 1 something failed, 2 wrong usage.
"""

import io
import json
import math
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from resonnx_proto import __version__

from resonnx._attention import NothingToDraw, draw_attention
from resonnx._caption_options import CaptionOptions
from resonnx._client import Client
from resonnx._errors import Internal, InvalidArgument, NotFound, ResonnxError, Unavailable, from_unreadable
from resonnx._output import (
    error_json,
    error_line,
    model_json,
    model_lines,
    model_row_json,
    models_lines,
    result_json,
    result_lines,
)
from resonnx._results import CaptionResult, Classification, ModelInfo, ModelSummary
from resonnx.bench.command import bench

# Pictures under way at once; bounds the memory for their bytes too.
_IN_FLIGHT = 16


def _text(value: str | None) -> str | None:
    # An argument of bytes that are no text would fail only where the message is built.
    if value and not value.isprintable():
        raise typer.BadParameter("must be printable text")
    return value


def _seconds(value: float) -> float:
    if not 0 < value < math.inf:
        raise typer.BadParameter("must be a number over 0")
    return value


_Result = Classification | CaptionResult
_Outcome = _Result | ResonnxError
_Ask = Callable[[Client, str], _Result]
_Images = Annotated[list[str], typer.Argument(metavar="IMAGE", help="JPEG, PNG or WebP files.")]
_Model = Annotated[str, typer.Option(callback=_text, metavar="NAME", help="The model to ask.")]
_Server = Annotated[
    str | None,
    typer.Option(callback=_text, metavar="HOST:PORT", help="Default: $RESONNX_SERVER, else localhost:8001."),
]
_Timeout = Annotated[float, typer.Option(callback=_seconds, metavar="SECONDS", help="For each call.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]

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
    images: _Images,
    model: _Model,
    server: _Server = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, max=2**32 - 1, metavar="K", help="Labels a picture (5, or all if fewer).")
    ] = None,
    timeout: _Timeout = 10.0,
    as_json: _Json = False,
) -> None:
    """Print each picture's labels and their probabilities, best first."""

    def ask(client: Client, image: str) -> _Result:
        return client.classify(image, model, top_k=top_k)

    _ask_all(ask, images, server, timeout, as_json)


@app.command()
def caption(
    images: _Images,
    model: _Model,
    server: _Server = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print words as they come.")] = False,
    beam_width: Annotated[
        int | None, typer.Option(min=1, max=10, metavar="WIDTH", help="Captions searched side by side.")
    ] = None,
    captions: Annotated[int, typer.Option(min=1, max=10, metavar="N", help="Captions a picture, best first.")] = 1,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, max=2**32 - 1, metavar="N", help="Where to stop, the end included.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="Above 0, draw words at random.")] = 0.0,
    seed: Annotated[int | None, typer.Option(min=0, max=2**64 - 1, help="The same seed draws the same words.")] = None,
    attention: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="FILE", help="Draw where the model looked, word by word.")
    ] = None,
    timeout: _Timeout = 10.0,
    as_json: _Json = False,
) -> None:
    """Print a sentence for each picture."""
    if stream and (as_json or captions > 1):
        raise typer.BadParameter("--stream prints one caption's words: no --json, no --captions")
    if attention is not None and (stream or len(images) != 1):
        raise typer.BadParameter("--attention draws one picture's words, and not with --stream")
    options = CaptionOptions(num_captions=captions, temperature=temperature, attention=attention is not None)
    if beam_width is not None:
        options["beam_width"] = beam_width
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    if seed is not None:
        options["seed"] = seed

    def ask(client: Client, image: str) -> _Result:
        picture = Path(image).read_bytes()
        result = client.caption(picture, model, **options)
        if attention is not None:
            _draw(picture, result, attention)
        return result

    if stream:
        _stream_all(images, model, server, timeout, options)
    else:
        _ask_all(ask, images, server, timeout, as_json)


def _draw(picture: bytes, result: CaptionResult, file: Path) -> None:
    try:
        draw_attention(picture, result, file)
    except (NothingToDraw, OSError, ValueError) as error:
        raise InvalidArgument(f"{file}: {error}") from None


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(callback=_text, help="Show this one in detail.")] = None,
    server: _Server = None,
    timeout: _Timeout = 10.0,
    as_json: _Json = False,
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
            _fail(error_line(error, client.server))
    for line in lines:
        typer.echo(line)


def _ask_all(ask: _Ask, images: list[str], server: str | None, timeout_s: float, as_json: bool) -> None:
    """Ask for all pictures, several at once, and print the outcomes in the order given."""
    failed = False
    # The client closes first, which ends the calls that leaving the pool would wait for.
    with ThreadPoolExecutor(_IN_FLIGHT) as pool, Client(server, timeout_s=timeout_s) as client:
        for image, outcome in _in_order(pool, partial(_outcome, ask, client), images):
            if as_json:
                typer.echo(json.dumps(_picture_json(image, outcome)))
            elif isinstance(outcome, ResonnxError):
                _report(image, outcome, client.server)
            else:
                lead = f"{image}: " if len(images) > 1 else ""
                for line in result_lines(outcome):
                    typer.echo(lead + line)
            failed |= isinstance(outcome, ResonnxError)
    if failed:
        raise typer.Exit(1)


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[str], _Outcome], images: list[str]
) -> Iterator[tuple[str, _Outcome]]:
    left = iter(images)
    pending: deque[tuple[str, Future[_Outcome]]] = deque()
    while True:
        for image in islice(left, _IN_FLIGHT - len(pending)):
            pending.append((image, pool.submit(work, image)))
        if not pending:
            return
        image, future = pending.popleft()
        yield image, future.result()


def _outcome(ask: _Ask, client: Client, image: str) -> _Outcome:
    try:
        return ask(client, image)
    except OSError as error:
        return from_unreadable(error)
    except ResonnxError as error:
        return error


def _picture_json(image: str, outcome: _Outcome) -> dict[str, Any]:
    if isinstance(outcome, ResonnxError):
        return {"image": image, "error": error_json(outcome)}
    return result_json(image, outcome)


def _stream_all(images: list[str], model: str, server: str | None, timeout_s: float, options: CaptionOptions) -> None:
    """Print each picture's words as they come, one picture after the other."""
    failed = False
    with Client(server, timeout_s=timeout_s) as client:
        for image in images:
            lead = f"{image}: " if len(images) > 1 else ""
            outcome = _outcome(partial(_print_words, model=model, lead=lead, options=options), client, image)
            if isinstance(outcome, ResonnxError):
                _report(image, outcome, client.server)
                failed = True
    if failed:
        raise typer.Exit(1)


def _print_words(client: Client, image: str, *, model: str, lead: str, options: CaptionOptions) -> CaptionResult:
    line_begun = False
    try:
        for event in client.stream_caption(image, model, **options):
            if isinstance(event, CaptionResult):
                typer.echo("" if line_begun else lead, nl=False)
                line_begun = True
                return event
            typer.echo(f"{' ' if line_begun else lead}{event.text}", nl=False)
            line_begun = True
        raise Internal("the server ended the stream without its answer")
    finally:
        if line_begun:
            typer.echo()


def _details(client: Client, summary: ModelSummary) -> ModelInfo | None:
    if summary.state != "ready":
        return None
    try:
        return client.model(summary.name, summary.version)
    except NotFound:  # Replaced since it was listed.
        return None


def _report(image: str, error: ResonnxError, server: str) -> None:
    line = error_line(error, server)
    if isinstance(error, Unavailable):
        # The other pictures would only say the same.
        _fail(line)
    typer.echo(f"resonnx: {image}: {line}", err=True)


def _fail(line: str) -> NoReturn:
    typer.echo(f"resonnx: {line}", err=True)
    raise typer.Exit(1)
