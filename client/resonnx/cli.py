"""The `resonnx` command: results go to stdout, errors to stderr in one line each.

Exit status: 0 success, 1 a call failed, 2 wrong usage; `health` has more.
"""

import io
import sys
from typing import Annotated

import typer
from resonnx_proto import __version__

from resonnx._commands.caption import caption
from resonnx._commands.classify import classify
from resonnx._commands.classify_video import classify_video
from resonnx._commands.health import health
from resonnx._commands.models import models
from resonnx._commands.repository import repository
from resonnx.bench.command import bench

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (bench, classify, classify_video, caption, models, health):
    app.command()(command)
app.add_typer(repository, name="repo")


def main() -> None:
    """Run the command line."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names may not be text, and labels may not fit the terminal's encoding.
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
    """Classify and caption pictures, and classify videos, with a resonnx server."""
