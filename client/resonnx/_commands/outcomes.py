"""Calls the server for many pictures: results go to stdout, errors to stderr in one line each."""

import json
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from functools import partial
from typing import Any, NoReturn, TypeVar

import typer

from resonnx._clients.client import Client
from resonnx._commands.connection import Connection
from resonnx._commands.inputs import Inputs, Picture
from resonnx._commands.output import error_json, error_line, result_json
from resonnx._commands.progress import progress
from resonnx._errors import ResonnxError, Unavailable, from_unreadable
from resonnx._tasks.task import Task

_R = TypeVar("_R")


def print_results(
    task: Task[Any],
    ask: Callable[[Client, Iterable[Picture]], Generator[Any]],
    images: Inputs,
    connection: Connection,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Ask for all pictures, and print results and errors in the pictures' order, with a progress bar.

    Raises:
        typer.Exit: Status 1, if a call failed.
    """
    failed = False
    # The client is closed at the end, which ends calls that are still under way.
    with (
        connection.client(timeout_s) as client,
        progress(len(images.names)) as step,
        closing(ask(client, images.pictures())) as outcomes,
    ):
        for image, outcome in zip(images.names, outcomes, strict=True):
            failed |= isinstance(outcome, ResonnxError)
            if as_json:
                typer.echo(json.dumps(_picture_json(task, image, outcome)))
            elif isinstance(outcome, ResonnxError):
                _print_error(image, outcome, client.server)
            else:
                for line in task.result_lines(outcome):
                    typer.echo(_prefix(images, image) + line)
            step(failed=isinstance(outcome, ResonnxError))
    if failed:
        raise typer.Exit(1)


def print_each(
    call: Callable[[str, Client, bytes], None], images: Inputs, connection: Connection, timeout_s: float
) -> None:
    """Make a call that prints its own result for each picture, one after the other.

    Args:
        call: Takes the text to print before the result, client and picture.
        images: The pictures.
        connection: To the server.
        timeout_s: Limit of each call in seconds.

    Raises:
        typer.Exit: Status 1, if a call failed.
    """
    failed = False
    with connection.client(timeout_s) as client:
        for image in images.names:
            outcome = _outcome(partial(call, _prefix(images, image)), client, images, image)
            if isinstance(outcome, ResonnxError):
                _print_error(image, outcome, client.server)
                failed = True
    if failed:
        raise typer.Exit(1)


def fail(line: str) -> NoReturn:
    """Print an error to stderr and end with exit status 1."""
    typer.echo(f"resonnx: {line}", err=True)
    raise typer.Exit(1)


def _outcome(call: Callable[[Client, bytes], _R], client: Client, images: Inputs, image: str) -> _R | ResonnxError:
    try:
        return call(client, images.read(image))
    except OSError as error:
        return from_unreadable(error)
    except ResonnxError as error:
        return error


def _picture_json(task: Task[Any], image: str, outcome: Any) -> dict[str, Any]:
    if isinstance(outcome, ResonnxError):
        return {task.input: image, "error": error_json(outcome)}
    return result_json(task, image, outcome)


def _prefix(images: Inputs, image: str) -> str:
    return f"{image}: " if images.named else ""


def _print_error(image: str, error: ResonnxError, server: str) -> None:
    line = error_line(error, server)
    if isinstance(error, Unavailable):
        # The other pictures would fail for the same reason.
        fail(line)
    typer.echo(f"resonnx: {image}: {line}", err=True)
