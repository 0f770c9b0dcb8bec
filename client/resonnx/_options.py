"""Options and arguments that several commands have: each one's type, check, and what --help says of it."""

import math
from typing import Annotated

import typer

from resonnx._inputs import Inputs
from resonnx._transport.channel import server_address


def text(value: str | None) -> str | None:
    """Refuse an argument of bytes that are no text, which would fail only where the message is built."""
    if value and not value.isprintable():
        raise typer.BadParameter("must be printable text")
    return value


def inputs(arguments: list[str]) -> Inputs:
    """Return the pictures that the arguments mean."""
    try:
        return Inputs(arguments)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _seconds(value: float) -> float:
    if not 0 < value < math.inf:
        raise typer.BadParameter("must be a number over 0")
    return value


def _address(value: str | None) -> str:
    try:
        return server_address(text(value))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


PICTURES_HELP = (
    "Picture files, folders (without their subfolders), patterns such as '**/*.jpg', or - for standard input."
)
Images = Annotated[list[str], typer.Argument(metavar="IMAGE", help=PICTURES_HELP)]
Model = Annotated[str, typer.Option(callback=text, metavar="NAME", help="The model to ask.")]
Server = Annotated[
    str | None,
    typer.Option(callback=_address, metavar="HOST[:PORT]", help="Default: $RESONNX_SERVER, else localhost:8001."),
]
Timeout = Annotated[float, typer.Option(callback=_seconds, metavar="SECONDS", help="For each call.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
