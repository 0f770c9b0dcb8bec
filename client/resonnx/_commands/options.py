"""Options and arguments that several commands share: type, check and help."""

import math
from typing import Annotated

import typer

from resonnx._commands.inputs import Inputs
from resonnx._transport.channel import server_address
from resonnx._transport.window import MOST_AT_A_TIME


def text(value: str | None) -> str | None:
    """Return an argument; raises BadParameter unless it is printable text."""
    if value and not value.isprintable():
        raise typer.BadParameter("must be printable text")
    return value


def inputs(arguments: list[str]) -> Inputs:
    """Return the pictures that the arguments name."""
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
Model = Annotated[
    str, typer.Option(callback=text, metavar="NAME[:VERSION]", help="The model; a version is a number or a label.")
]
Server = Annotated[
    str | None,
    typer.Option(callback=_address, metavar="HOST[:PORT]", help="Default: $RESONNX_SERVER, else localhost:8001."),
]
Timeout = Annotated[float, typer.Option(callback=_seconds, metavar="SECONDS", help="Timeout of each call.")]
Concurrency = Annotated[
    int, typer.Option(min=1, max=MOST_AT_A_TIME, metavar="N", help="Calls at a time, over several connections.")
]
Json = Annotated[bool, typer.Option("--json", "--jsonl", help="Print one JSON object per line.")]
