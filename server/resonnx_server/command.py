"""The command `resonnx-server`: from arguments to a server, and from its end to an exit status."""

import asyncio
import os
import sys
from typing import Any

import typer

from resonnx_server.config import Settings
from resonnx_server.config_sources import ConfigError, foreign_variables, load_settings
from resonnx_server.flags import with_flags
from resonnx_server.runtime.machine.descriptors import TooFewDescriptors
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.machine.memory import lack_of_address_space
from resonnx_server.signals import leave

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run() -> None:
    """Run the command `resonnx-server`; called by __main__.main."""
    # Beside the flags, which belong to no command: with Typer's groups, help would name `keys` before them.
    if sys.argv[1:2] == ["keys"]:
        from resonnx_server.access.commands import app as keys

        keys(sys.argv[2:], prog_name="resonnx-server keys")
    app(prog_name="resonnx-server")


@app.command()
@with_flags
def serve(**flags: Any) -> None:
    """Serve verified ResNet classifiers and captioners over gRPC.

    Each flag can also be given as a variable, RESONNX_PORT for --port, or in [server] of the --config file, as
    port = 8001. Flags win over variables, and variables over the file.

    `resonnx-server keys new NAME` makes an API key for the file that --keys-file names.
    """
    flags.pop("version")
    try:
        for name in foreign_variables(os.environ):
            print(f"resonnx-server: {name} is not a setting of the server, and ignored", file=sys.stderr)
        settings = load_settings(flags, os.environ)
    except ConfigError as error:
        print(f"resonnx-server: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    if (lack := lack_of_address_space(usable_cores())) is not None:
        print(f"resonnx-server: {lack}", file=sys.stderr)
        raise typer.Exit(1)
    # Not before: it loads all that the server is made of, and --help and mistyped settings answer at once.
    from resonnx_server.observe import logs

    logs.configure(settings.log_level)
    raise typer.Exit(asyncio.run(_serve(settings)))


async def _serve(settings: Settings) -> int:
    """Return the exit status."""
    from resonnx_server.access.policy import AccessFault
    from resonnx_server.lifecycle import Server, StartError

    try:
        server, status = Server(settings), 0
    except (AccessFault, TooFewDescriptors) as fault:
        print(f"resonnx-server: {fault}", file=sys.stderr)
        return 1
    try:
        await server.run()
    except StartError as error:
        print(f"resonnx-server: {error}", file=sys.stderr)
        status = 1
    if server.left_behind:
        leave(status)
    return status
