"""The group of all commands: each error ends a command with one line on stderr and its exit code."""

import sys
from typing import Any, Final

import typer
from resonnx_server.runtime.providers.installed import RuntimeFault, check_runtime
from typer.core import TyperCommand, TyperGroup

from resonnx_export.errors import BadInput, ExportError, ParityFailed
from resonnx_export.wording import printable

_PARITY_FAILED: Final = 1
_BAD_INPUT: Final = 2
_LONGEST_MESSAGE: Final = 2000


class Commands(TyperGroup):
    """Ends a command that raised with one line on stderr and the exit code of the error."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (ExportError, OSError) as error:
            print(f"resonnx-export: {_shortened(printable(str(error)))}", file=sys.stderr)
            raise typer.Exit(_PARITY_FAILED if isinstance(error, ParityFailed) else _BAD_INPUT) from None


class RunsModels(TyperCommand):
    """A command that runs models: it needs ONNX Runtime. Its --help does not."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            BadInput: ONNX Runtime is not installed, or twice.
        """
        try:
            check_runtime()
        except RuntimeFault as fault:
            raise BadInput(str(fault)) from None
        return super().invoke(ctx)


def _shortened(line: str) -> str:
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}..."
