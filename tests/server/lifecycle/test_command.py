"""The command `resonnx-server`: its flags are the settings, and a bad one ends it before anything loads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from resonnx_server import __version__
from resonnx_server.config import Settings


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RESONNX_")}
    command = [sys.executable, "-m", "resonnx_server", *arguments]
    return subprocess.run(command, env={**variables, **environment}, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("flag", [pytest.param("-h", marks=pytest.mark.slow), "--help"])
def test_help_names_every_setting_with_its_default(flag: str) -> None:
    done = _run(flag)
    assert (done.returncode, done.stderr) == (0, "")
    for name in Settings.model_fields.keys() - {"models"}:
        assert f" --{name.replace('_', '-')} " in done.stdout
    told = " ".join(done.stdout.split())
    for text in ("--config FILE", "--strict / --no-strict", "default: 67108864]", "[required]", "auto|cpu|openvino"):
        assert text in told


def test_version() -> None:
    done = _run("--version")
    assert (done.returncode, done.stdout) == (0, f"resonnx-server {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (["--prot", "1"], {}, "No such option: --prot"),
        (["--repository", ".", "--port", "x"], {}, "resonnx-server: setting port: Input should be a valid integer"),
        ([], {"RESONNX_REPOSITRY": "models"}, "variable RESONNX_REPOSITRY: there is no such setting; did you mean"),
        ([], {}, "resonnx-server: setting repository: give --repository, RESONNX_REPOSITORY, or"),
    ],
)
def test_what_cannot_be_used_ends_with_2(arguments: list[str], environment: dict[str, str], told: str) -> None:
    done = _run(*arguments, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_are_printed_and_checked_without_serving(tmp_path: Path) -> None:
    flags = ("--repository", str(tmp_path), "--port", "1")
    printed, checked = _run(*flags, "--print-config"), _run("check", *flags)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert "port = 1  # flag --port" in printed.stdout.splitlines()
    assert (checked.returncode, checked.stderr) == (1, "")
    assert checked.stdout.splitlines()[-1] == "0 would be served, 0 refused"
    assert _run("check", "--prot", "1").returncode == 2


def test_variables_that_nobody_knows_are_told_and_ignored(tmp_path: Path) -> None:
    done = _run("--repository", str(tmp_path / "none"), "--no-strict", RESONNX_COLOUR="red")
    assert done.returncode == 1
    told, failed = done.stderr.splitlines()
    assert told == "resonnx-server: RESONNX_COLOUR is not a setting of the server, and ignored"
    assert failed.startswith("resonnx-server: ")
    assert "none" in failed


def test_flags_go_over_the_file_both_ways(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text(f'[server]\nrepository = "{tmp_path / "of-the-file"}"\nstrict = "neither"\n')
    done = _run("--config", str(file), "--strict", "--repository", str(tmp_path / "of-the-flag"))
    assert done.returncode == 1
    assert "of-the-flag" in done.stderr


def test_settings_of_a_model_that_is_not_there_are_told_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "models/digits/1").mkdir(parents=True)
    file = tmp_path / "server.toml"
    file.write_text("[models.digts]\nmax_batch_size = 1\n[models.digits]\n[models.other]\n")
    done = _run("--repository", str(tmp_path / "models"), "--config", str(file), "--port", "0", "--http-port", "0")
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    told = {line["model"]: line["nearest"] for line in lines if "not there" in line["message"]}
    assert told == {"digts": "digits", "other": None}


def test_a_deprecated_setting_is_accepted_and_told(tmp_path: Path) -> None:
    (tmp_path / "models/coco/1").mkdir(parents=True)
    file = tmp_path / "server.toml"
    flags = ("--repository", str(tmp_path / "models"), "--config", str(file), "--port", "0", "--http-port", "0")
    file.write_text('[models.coco]\ncaption_policy = "rigid"\n')
    lines = [json.loads(line) for line in _run(*flags).stderr.splitlines() if line.startswith("{")]
    (told,) = (line for line in lines if "deprecated" in line["message"])
    assert (told["message"], told["model"]) == ("caption_policy is deprecated: continuous is always used", "coco")
    file.write_text('[models.coco]\ncaption_policy = "sometimes"\n')
    done = _run(*flags)
    assert done.returncode == 2
    assert "models.coco.caption_policy" in done.stderr
