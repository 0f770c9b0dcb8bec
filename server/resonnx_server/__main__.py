"""The command `resonnx-server`."""

import asyncio
import os
import sys

# gRPC's core writes lines of its own to stderr; what matters is raised and told by us.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Sockets are served by the thread that polls for completions, not by a pool that hands over to it: about a sixth less
# processor time a call (benchmarks/RESULTS.md). A gRPC that does not know these experiments says so and goes on.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener,-event_engine_for_all_other_endpoints")

from resonnx_server import lifecycle
from resonnx_server.config import ConfigError, Settings, load_settings
from resonnx_server.observe import logs


def main() -> None:
    """Serve until told to stop. Exit status: 0 after a drain, 1 if it cannot start, 2 for bad settings."""
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


if __name__ == "__main__":
    main()
