"""The hooks of .pre-commit-config.yaml: the checks of `make lint`, from the same environment."""

import re
from pathlib import Path

import yaml

_ROOT = Path(__file__).parents[2]
_CHECK = re.compile(r"\b(ruff \w+|mypy|proto/generate|client/generate)\b")


def test_hooks_are_the_checks_of_make_lint() -> None:
    (repository,) = yaml.safe_load((_ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local", "nothing is downloaded"
    entries = [hook["entry"] for hook in repository["hooks"]]
    assert all(entry.startswith(".venv/bin/") or "PYTHON=../.venv/bin/python" in entry for entry in entries)
    recipe = re.search(r"^lint: .*\n((?:\t.*\n)+)", (_ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    checks = recipe[1].splitlines()
    assert [_CHECK.findall(entry) for entry in entries] == [_CHECK.findall(check) for check in checks]
    # Hooks must not change files that are about to be committed.
    assert [("--check" in entry) for entry in entries] == [("--check" in check) for check in checks]
