"""The command `resonnx-server`: from arguments to a server, and from its end to an exit status."""

import asyncio
import logging
import os
import sys
from typing import Any

import typer

from resonnx_server.config import Settings
from resonnx_server.config_sources import ConfigError, foreign_variables, given_text, load_settings, setting_sources
from resonnx_server.flags import with_flags, with_flags_and_models
from resonnx_server.memory.freed import share_heaps
from resonnx_server.observe import logs
from resonnx_server.observe.logs import console
from resonnx_server.runtime.machine.cheap_imports import cheap_imports
from resonnx_server.runtime.machine.descriptors import TooFewDescriptors
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.machine.memory import lack_of_address_space
from resonnx_server.runtime.providers.installed import RuntimeFault, check_runtime
from resonnx_server.signals import leave


def _app() -> typer.Typer:
    return typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


app, check, tune = _app(), _app(), _app()
# Raised only where the library does not print it itself.
_BadArguments: Any = typer.BadParameter.__base__


def run() -> None:
    """Run the command `resonnx-server`; called by __main__.main."""
    # Beside the flags, which belong to no command: with Typer's groups, help would name `keys` before them.
    if sys.argv[1:2] == ["keys"]:
        from resonnx_server.access.commands import app as keys

        keys(sys.argv[2:], prog_name="resonnx-server keys")
    if sys.argv[1:2] == ["check"]:
        check(sys.argv[2:], prog_name="resonnx-server check")
    if sys.argv[1:2] == ["tune"]:
        tune(sys.argv[2:], prog_name="resonnx-server tune")
    console.is_json = given_text("log_format", sys.argv[1:], os.environ) == "json"
    try:
        sys.exit(app(prog_name="resonnx-server", standalone_mode=not console.is_json))
    except _BadArguments as error:
        console.tell(logging.ERROR, error.format_message())
        sys.exit(error.exit_code)


@app.command()
@with_flags
def serve(**flags: Any) -> None:
    """Serve verified ResNet classifiers and captioners over gRPC.

    Each flag can also be given as a variable, RESONNX_PORT for --port, or in [server] of the --config file, as
    port = 8001. Flags win over variables, and variables over the file.

    `resonnx-server check`, with the same flags, checks settings and models without serving. `resonnx-server keys new
    NAME` makes an API key for the file that --keys-file names. `resonnx-server health` asks a running server whether it
    is ready. `resonnx-server tune`, with the same flags, measures models thoroughly for the cache.
    """
    settings = _settings(flags)
    _need_runtime()
    if (lack := lack_of_address_space(usable_cores())) is not None:
        console.tell(logging.ERROR, lack)
        raise typer.Exit(1)
    # Before there are threads.
    share_heaps(usable_cores())
    logs.configure(settings.log_level)
    raise typer.Exit(asyncio.run(_serve(settings)))


@check.command()
@with_flags
def check_all(**flags: Any) -> None:
    """Check settings and all models as a start would, without measuring or serving, and print a table.

    Takes the server's flags. Exit status: 0 if all would be served, 1 if anything would be refused, 2 for bad settings.
    """
    settings = _settings(flags)
    _need_runtime()
    from resonnx_server.checking.command import check as check_settings

    raise typer.Exit(check_settings(settings))


@tune.command()
@with_flags_and_models
def tune_models(names: list[str] | None, **flags: Any) -> None:
    """Measure models thoroughly, print their candidates with times, and keep the choices in cache_dir.

    Takes the server's flags. A server that starts with the same cache_dir, settings and processors takes the choices.
    Exit status: 0 if all models were measured beyond doubt, 1 if one was refused, or other processes held the
    processors, 2 for bad arguments or settings.
    """
    settings = _settings(flags)
    _need_runtime()
    share_heaps(usable_cores())
    from resonnx_server.checking.tuning import tune as tune_repository

    raise typer.Exit(tune_repository(settings, names or []))


def _settings(flags: dict[str, Any]) -> Settings:
    """Return the settings of flags, variables and the file; end the process if they are bad, or only to be printed."""
    flags.pop("version")
    printing = flags.pop("print_config")
    try:
        for name in foreign_variables(os.environ):
            console.tell(logging.WARNING, f"{name} is not a setting of the server, and ignored")
        settings = load_settings(flags, os.environ)
    except ConfigError as error:
        console.tell(logging.ERROR, str(error))
        raise typer.Exit(2) from None
    if printing:
        from resonnx_server.checking.printed import printed

        for line in printed(settings, setting_sources(flags, os.environ)):
            print(line)
        raise typer.Exit
    return settings


def _need_runtime() -> None:
    """End the process if ONNX Runtime is not installed, or twice."""
    try:
        check_runtime()
    except RuntimeFault as fault:
        console.tell(logging.ERROR, str(fault))
        raise typer.Exit(1) from None


async def _serve(settings: Settings) -> int:
    """Return the exit status."""
    with cheap_imports():
        from resonnx_server.access.policy import AccessFault
        from resonnx_server.lifecycle import Server, StartError
        from resonnx_server.observe.spans.tracer import BadExport

    try:
        server, status = Server(settings), 0
    except (AccessFault, TooFewDescriptors, BadExport) as fault:
        console.tell(logging.ERROR, str(fault))
        return 1
    try:
        await server.run()
    except StartError as error:
        console.tell(logging.ERROR, str(error))
        status = 1
    if server.left_behind:
        leave(status)
    return status
