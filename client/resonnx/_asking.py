"""Asks about many pictures and prints the outcomes: results to stdout, errors to stderr in one line each."""

import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, NoReturn, TypeAlias

import typer

from resonnx._caption_options import CaptionOptions
from resonnx._client import Client
from resonnx._errors import Internal, ResonnxError, Unavailable, from_unreadable
from resonnx._inputs import Inputs
from resonnx._output import error_json, error_line, result_json, result_lines
from resonnx._results import CaptionResult, Classification

# Pictures under way at once; bounds the memory for their bytes too.
_IN_FLIGHT = 16

Result: TypeAlias = Classification | CaptionResult
Ask: TypeAlias = Callable[[Client, bytes], Result]
_Outcome: TypeAlias = Result | ResonnxError


def ask_all(ask: Ask, images: Inputs, server: str | None, timeout_s: float, as_json: bool) -> None:
    """Ask for all pictures, several at once, and print the outcomes in the order given."""
    failed = False
    # The client closes first, which ends the calls that leaving the pool would wait for.
    with ThreadPoolExecutor(_IN_FLIGHT) as pool, Client(server, timeout_s=timeout_s) as client:
        for image, outcome in _in_order(pool, partial(_outcome, ask, client, images), images.names):
            if as_json:
                typer.echo(json.dumps(_picture_json(image, outcome)))
            elif isinstance(outcome, ResonnxError):
                _report(image, outcome, client.server)
            else:
                lead = f"{image}: " if images.named else ""
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


def _outcome(ask: Ask, client: Client, images: Inputs, image: str) -> _Outcome:
    try:
        return ask(client, images.read(image))
    except OSError as error:
        return from_unreadable(error)
    except ResonnxError as error:
        return error


def _picture_json(image: str, outcome: _Outcome) -> dict[str, Any]:
    if isinstance(outcome, ResonnxError):
        return {"image": image, "error": error_json(outcome)}
    return result_json(image, outcome)


def stream_all(images: Inputs, model: str, server: str | None, timeout_s: float, options: CaptionOptions) -> None:
    """Print each picture's words as they come, one picture after the other."""
    failed = False
    with Client(server, timeout_s=timeout_s) as client:
        for image in images.names:
            lead = f"{image}: " if images.named else ""
            outcome = _outcome(partial(_print_words, model=model, lead=lead, options=options), client, images, image)
            if isinstance(outcome, ResonnxError):
                _report(image, outcome, client.server)
                failed = True
    if failed:
        raise typer.Exit(1)


def _print_words(client: Client, image: bytes, *, model: str, lead: str, options: CaptionOptions) -> CaptionResult:
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


def _report(image: str, error: ResonnxError, server: str) -> None:
    line = error_line(error, server)
    if isinstance(error, Unavailable):
        # The other pictures would only say the same.
        fail(line)
    typer.echo(f"resonnx: {image}: {line}", err=True)


def fail(line: str) -> NoReturn:
    """Say why on stderr, and end with exit status 1."""
    typer.echo(f"resonnx: {line}", err=True)
    raise typer.Exit(1)
