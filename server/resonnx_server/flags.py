"""The command's flags, generated from the server's settings as a signature for Typer.

Values stay text; config_sources.py validates them, as it does those from other sources.
"""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from resonnx_server import __version__
from resonnx_server.config import Settings
from resonnx_server.config_text import Setting, describe


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add a flag for each server setting, --config, --print-config and --version to a command with **flags."""
    command.__signature__ = inspect.Signature(list(_parameters()))  # type: ignore[attr-defined]
    return command


def with_flags_and_models(command: Callable[..., None]) -> Callable[..., None]:
    """Add the same, and the argument `names`: names of models, or none."""
    argument = typer.Argument(metavar="[MODEL]...", show_default=False, help="Names of models; all by default.")
    names = inspect.Parameter(
        "names", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[list[str] | None, argument]
    )
    command.__signature__ = inspect.Signature([names, *_parameters()])  # type: ignore[attr-defined]
    return command


def _parameters() -> Iterator[inspect.Parameter]:
    for setting in describe(Settings):
        yield _parameter(setting.name, *_option(setting))
    config = typer.Option("--config", metavar="FILE", help="TOML file with [server] and [models.NAME].")
    yield _parameter("config", Path, config)
    printing = typer.Option("--print-config", help="Print all settings and where each comes from, and exit.")
    yield _parameter("print_config", bool, printing)
    version = typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    yield _parameter("version", bool, version)


def _parameter(name: str, kind: type, option: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _option(setting: Setting) -> tuple[type, Any]:
    flag = "--" + setting.name.replace("_", "-")
    if setting.kind == "boolean":
        text = f"{setting.text}  [default: {'yes' if setting.default == 'true' else 'no'}]"
        return bool, typer.Option(f"{flag}/--no-{flag[2:]}", show_default=False, help=text)
    separator = "," if setting.kind == "array" else "|"
    kind = {"integer": "N", "string": "TEXT"}.get(setting.kind, setting.kind.upper())
    metavar = separator.join(setting.choices) or kind
    notes = [setting.bounds, f"default: {setting.default}" if setting.default else "", "required" * setting.required]
    noted = "; ".join(filter(None, notes))
    text = f"{setting.text}  [{noted}]" if noted else setting.text
    return str, typer.Option(flag, metavar=metavar, show_default=False, help=text)


def _print_version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"resonnx-server {__version__}")
        raise typer.Exit
