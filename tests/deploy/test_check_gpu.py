"""deploy/check-gpu: its dry run on the CPU provider goes through the steps that it takes on a GPU."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy/check-gpu"


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CHECK_GPU_PYTHON": sys.executable}
    return subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU")
def test_without_a_gpu_nothing_is_installed_or_checked() -> None:
    done = _run()
    assert done.returncode == 2
    assert "no NVIDIA GPU" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_dry_run_passes_all_checks_that_need_no_gpu() -> None:
    done = _run("--provider", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = dict.fromkeys(["ok", "not checked", "FAILED"], 0)
    for line in done.stdout.splitlines():
        for outcome in outcomes:
            outcomes[outcome] += line.startswith(f"{outcome} ")
    assert outcomes == {"ok": 6, "not checked": 2, "FAILED": 0}, done.stdout


def test_a_check_that_fails_is_the_exit_status(tmp_path: Path) -> None:
    done = _run("--provider", "cpu", "--minutes", "0.02")
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert "the time is up" in done.stdout
