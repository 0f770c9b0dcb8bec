"""From arguments to a server, and from its end to an exit status."""

import asyncio
import sys

from resonnx_server import lifecycle
from resonnx_server.config import ConfigError, Settings, load_settings
from resonnx_server.observe import logs


def run() -> None:
    """Do what `resonnx-server` is for; see __main__.main."""
    try:
        settings = load_settings(sys.argv[1:])
    except ConfigError as error:
        print(f"resonnx-server: {error}", file=sys.stderr)
        sys.exit(2)
    logs.configure(settings.log_level)
    try:
        asyncio.run(_serve(settings))
    except lifecycle.StartError as error:
        print(f"resonnx-server: {error}", file=sys.stderr)
        sys.exit(1)


async def _serve(settings: Settings) -> None:
    await lifecycle.Server(settings).run()
