"""Completion in shells, and the bar of progress."""

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from resonnx.cli import app
from typer.testing import CliRunner

MAIN = [sys.executable, "-m", "resonnx"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_of_the_shell(shell: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, prog_name="resonnx", env={"_RESONNX_COMPLETE": f"source_{shell}"})
    assert done.exit_code == 0
    assert "_RESONNX_COMPLETE" in done.stdout
    if program := shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(done.stdout)
        subprocess.run([program, "-n", script], check=True)


def test_what_is_installed_completes_in_bash(tmp_path: Path) -> None:
    program = tmp_path / "bin/resonnx"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{MAIN[0]}" -m resonnx "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"HOME": str(tmp_path), "PATH": f"{program.parent}:{os.environ['PATH']}"}

    def bash(commands: str) -> str:
        done = subprocess.run(["bash", "-euc", commands], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "installed" in bash("resonnx --install-completion; true")
    typed = "COMP_WORDS=(resonnx health --wa); COMP_CWORD=2; _resonnx_completion resonnx"
    assert bash(f'. ~/.bashrc; {typed}; echo "${{COMPREPLY[@]}}"').split() == ["--watch"]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("resonnx ", {"bench", "classify", "classify-video", "caption", "models", "health", "repo"}),
        pytest.param("resonnx repo ", {"ls", "load", "unload"}, marks=pytest.mark.slow),
        ("resonnx health --wa", {"--watch"}),
        ("resonnx classify --top", {"--top-k"}),
    ],
)
def test_what_is_typed_is_completed_in_bash(typed: str, offered: set[str]) -> None:
    words = typed.split(" ")
    asked = {"_RESONNX_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(MAIN, env=os.environ | asked, capture_output=True, text=True)
    assert set(done.stdout.split()) == offered


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_a_terminal_only(vision, pictures, tmp_path: Path, terminal: bool) -> None:
    (tmp_path / "07.jpg").write_text("junk")
    command = [*MAIN, "classify", *pictures, "--model", "digits", "--server", vision.address, "--concurrency", "4"]
    main, other = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=other if terminal else subprocess.PIPE,
        text=True,
    ) as process:
        os.close(other)
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
        shown = _drain(main) if terminal else process.stderr.read() if process.stderr else ""
    assert process.returncode == 1
    assert [line.split(":")[0] for line in lines] == [name for name in pictures if name != "07.jpg"]
    assert "07.jpg: image: an HTML page" in shown
    assert ("40/40" in shown) == terminal
    assert ("1 failed" in shown) == terminal


def _drain(terminal: int) -> str:
    """Return what was written to a terminal that is closed."""
    read = b""
    try:
        while block := os.read(terminal, 65536):
            read += block
    except OSError:  # Linux's end of a terminal.
        pass
    os.close(terminal)
    return read.decode()
