"""The command `resonnx-server`: what must be in the environment before anything is loaded; then command.py."""

import os

from resonnx_server.huge_pages import start_again
from resonnx_server.signals import stop_at_once


def main() -> None:
    """Serve until told to stop. Exit status: 0 after that, 1 if it cannot start, 2 for bad settings."""
    stop_at_once()
    start_again()
    # gRPC's core writes lines of its own to stderr; what matters is raised and told by us.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Sockets are served by the thread that polls for completions, not by a pool that hands over to it: about a sixth
    # less processor time a call (benchmarks/RESULTS.md). A gRPC that does not know these experiments says so and goes
    # on.
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener,-event_engine_for_all_other_endpoints")
    # Not before: it loads all that the server is made of, gRPC among it.
    from resonnx_server.command import run

    run()


if __name__ == "__main__":
    main()
