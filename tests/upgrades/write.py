"""Exports two small models with the code of a commit, and records what that commit's server answers for pictures.

    python -m tests.upgrades.write NAME COMMIT    # tests/upgrades/versions/NAME/{classifier,captioner}/1, answers.json

The commit runs in a worktree of its own, in this environment. RELEASING.md says when to run it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .answers import Repository, ask_all, serving
from .checkpoints import write_captioner, write_classifier

FOLDER = Path(__file__).parent / "versions"
_ROOT = Path(__file__).parents[2]
_ROOMS = ("proto", "server", "export", "client")


def write(name: str, commit: str) -> None:
    """Write the models and answers of `commit` to the folder `name`, which must not exist."""
    target = FOLDER / name
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        tree, checkpoints = Path(temporary, "tree"), Path(temporary, "checkpoints")
        checkpoints.mkdir()
        subprocess.run(["git", "-C", _ROOT, "worktree", "add", "--detach", "--quiet", tree, commit], check=True)
        try:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(tree / room) for room in _ROOMS)}
            for model, arguments in (
                ("classifier", write_classifier(checkpoints)),
                ("captioner", write_captioner(checkpoints)),
            ):
                command = [sys.executable, "-m", "resonnx_export", *arguments, "--repository", target, "--name", model]
                subprocess.run(command, check=True, env=environment, cwd=tree)
            cache = Path(temporary, "cache")
            with serving(Repository(target, cache), environment=environment, cwd=tree) as address:
                answers = ask_all(address)
            shutil.copytree(cache, target / "cache")
        finally:
            subprocess.run(["git", "-C", _ROOT, "worktree", "remove", "--force", tree], check=True)
    (target / "answers.json").write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="name of the folder, such as the release's version")
    parser.add_argument("commit")
    given = parser.parse_args()
    write(given.name, given.commit)
