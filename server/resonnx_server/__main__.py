"""The command `resonnx-server`: the environment that gRPC reads when it is loaded; then command.py."""

import os
import sys


def main() -> None:
    """Serve until SIGTERM or SIGINT. Exit status: 0 after that, 1 if it cannot start, 2 for bad settings."""
    if sys.argv[1:2] == ["health"]:
        # Before all that a server loads: it is asked every few seconds.
        from resonnx_server.checking import health

        health.main(sys.argv[2:])
    from resonnx_server.runtime.machine.cheap_imports import cheap_imports
    from resonnx_server.signals import stop_at_once

    stop_at_once()
    # gRPC writes lines of its own to stderr; errors that matter are raised, and logged by us.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Not before: it loads gRPC.
    with cheap_imports():
        from resonnx_server.command import run

    run()


if __name__ == "__main__":
    main()
