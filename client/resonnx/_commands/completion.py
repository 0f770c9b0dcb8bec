"""`resonnx completion`: the script that lets a shell complete commands and options."""

from enum import StrEnum
from typing import Annotated, Final

import typer
from typer._completion_classes import completion_init
from typer._completion_shared import get_completion_script

# A shell's script runs `resonnx` with this variable set, and with the words typed so far in others.
VARIABLE: Final = "_RESONNX_COMPLETE"


class Shell(StrEnum):
    """A shell."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="The shell.")]) -> None:
    """Print the script by which a shell completes commands and options.

    bash, in ~/.bashrc: eval "$(resonnx completion bash)". zsh, in ~/.zshrc after compinit: eval "$(resonnx completion
    zsh)". fish, in ~/.config/fish/config.fish: resonnx completion fish | source.
    """
    typer.echo(get_completion_script(prog_name="resonnx", complete_var=VARIABLE, shell=shell.value))


def prepare() -> None:
    """Let the command line answer a shell's request for completions."""
    completion_init()
