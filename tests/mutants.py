"""Mutation test of the server: changes one place at a time and sees whether a test notices.

    python tests/mutants.py --count 300 --seed 1 --work /tmp/mutants

A mutant is one small change of one expression or statement (a comparison, a constant, a condition, a removed call ...),
drawn at random from all such places in the rooms. A traced run of the server's unit tests finds which tests run which
lines; each mutant then runs in a copy of the tree, first the unit tests of its line, then some files of tests that boot
a server. A test that fails is run again without the mutant: only if it passes there is the mutant killed. A mutant that
no test notices survives. Log calls, messages, assertions, docstrings and types are left out.
Survivors are listed, as some are equivalent: no test could tell them from the original.
"""

import argparse
import compileall
import json
import py_compile
import random
import shutil
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from mutation.changes import Mutant, mutants_of
from mutation.forked import ForkedTests, Outcome
from mutation.selection import Group, TestMap

_ROOT: Final = Path(__file__).resolve().parent.parent
_SERVER: Final = Path("server/resonnx_server")
_ROOMS: Final = ("scheduling", "captioning", "tensors", "inference", "preprocessing", "rpc")
# Tests that boot a server, by room: file names in tests/server, in the order in which they are run.
_BOOTED: Final[dict[str, tuple[str, ...]]] = {
    "scheduling": ("test_refusals.py", "test_captions.py"),
    "captioning": ("test_captions.py", "test_refusals.py"),
    "tensors": ("test_tensor_protocol.py", "test_bare_files.py"),
    "inference": ("test_vision.py", "test_refusals.py"),
    "preprocessing": ("test_decode_served.py", "test_vision.py"),
    "rpc": ("test_vision.py", "test_tensor_protocol.py", "test_refusals.py"),
}
# A run of a file of them that is much slower than this is repeated, see `Trial`.
_BOOTED_S: Final = 10.0
# A run is ended after so long, or so many times the time of its tests without a mutant.
_LIMIT_S: Final = 12.0
_LIMIT_FACTOR: Final = 10.0


def all_mutants(root: Path, rooms: list[str]) -> list[Mutant]:
    """Return every mutant of the rooms below `root`."""
    return [
        mutant
        for room in rooms
        for path in sorted((root / _SERVER / room).rglob("*.py"))
        for mutant in mutants_of(room, path.relative_to(root), path.read_text())
    ]


class Trial:
    """Runs mutants in a copy of the tree."""

    def __init__(self, tree: Path, forked: ForkedTests, tests: TestMap, budget_s: float) -> None:
        """`budget_s` limits the unit tests of a mutant, in the time that they take without it."""
        self._tree, self._forked, self._tests, self._budget_s = tree, forked, tests, budget_s
        if not forked.has_tables:
            # Its servers measure the latency tables that the others are given.
            forked.run(self._booted("rpc"), 600.0)

    def outcome(self, mutant: Mutant) -> dict[str, Any]:
        """Return what happened to a mutant: killed by a test, survived, or undecided."""
        groups = self._tests.groups(mutant, self._budget_s)
        outcome = "survived"
        for group in (*groups, *(Group([path], _BOOTED_S) for path in self._booted(mutant.room))):
            test = self._noticed(mutant, group)
            if test:
                return {"outcome": "killed", "by": test}
            outcome = "undecided" if test is None else outcome
        return {"outcome": outcome, "unit_tests": sum(len(group.tests) for group in groups)}

    def _booted(self, room: str) -> list[str]:
        names = _BOOTED.get(room, _BOOTED["rpc"])
        return [
            str(path.relative_to(self._tree)) for name in names for path in self._tree.glob(f"tests/server/**/{name}")
        ]

    def _noticed(self, mutant: Mutant, group: Group) -> str | None:
        """Return the test that notices the mutant, "" if none does, None if the machine was too slow to tell."""
        limit_s = _LIMIT_S + _LIMIT_FACTOR * group.seconds
        for _ in range(3):
            changed = self._mutated(mutant, group.tests, limit_s)
            if changed.passed:
                return ""
            original = self._forked.run([changed.failed] if changed.failed else group.tests, 20 * limit_s)
            if changed.timed_out and not changed.failed:
                if original.passed and original.seconds < limit_s / 4:
                    return "timeout"
                limit_s = 4 * original.seconds
            elif original.passed:
                return changed.failed or "pytest itself"
        return None

    def _mutated(self, mutant: Mutant, tests: list[str], limit_s: float) -> Outcome:
        path = self._tree / mutant.file
        original = path.read_bytes()
        path.write_bytes(mutant.applied(original))
        try:
            return self._forked.run(tests, limit_s)
        finally:
            path.write_bytes(original)


def main() -> None:
    """Draw mutants, run them, print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=_ROOT, help="the tree to test (this one)")
    parser.add_argument("--rooms", nargs="+", default=list(_ROOMS), help="folders of server/resonnx_server")
    parser.add_argument("--count", type=int, default=300, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=90.0, help="no further mutant is begun after so long")
    parser.add_argument("--unit-seconds", type=float, default=30.0, help="most unit tests of a mutant, by their time")
    parser.add_argument("--work", type=Path, required=True, help="folder for a copy of the tree, its map, the outcomes")
    arguments = parser.parse_args()
    root, work = arguments.root.resolve(), arguments.work.resolve()
    drawn = random.Random(arguments.seed).sample(all_mutants(root, arguments.rooms), arguments.count)
    tree = work / "tree"
    if not tree.exists():
        shutil.copytree(root, tree, ignore=shutil.ignore_patterns(".*", "models", "__pycache__"))
    ends = time.monotonic() + 60 * arguments.minutes
    forked = ForkedTests(tree, work)
    tests = TestMap(forked, tree, work)
    # Modules are compiled once; a file that is changed is told by its content, as its time may not change.
    compileall.compile_dir(
        tree / _SERVER, quiet=1, force=True, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH
    )
    trial = Trial(tree, forked, tests, arguments.unit_seconds)
    outcomes = work / "outcomes.jsonl"
    done = {_key(row): row for row in _rows(outcomes)}
    with outcomes.open("a") as file:
        for mutant in drawn:
            key = _key(asdict(mutant))
            if key in done or time.monotonic() > ends:
                continue
            started = time.monotonic()
            row = {**asdict(mutant), **trial.outcome(mutant)}
            row["took_s"] = round(time.monotonic() - started, 1)
            done[key] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(f"\r{len(done)} of {len(drawn)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    _report(list(done.values()))


def _rows(outcomes: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in outcomes.read_text().splitlines()] if outcomes.exists() else []


def _key(row: dict[str, Any]) -> tuple[object, ...]:
    return row["file"], row["start"], row["end"], row["new"]


def _report(rows: list[dict[str, Any]]) -> None:
    total, killed = Counter[str](), Counter[str]()
    for row in rows:
        if row["outcome"] != "undecided":
            total[row["room"]] += 1
            killed[row["room"]] += row["outcome"] == "killed"
    for room, count in sorted(total.items()):
        print(f"{room}: {killed[room]} of {count} killed, {killed[room] / count:.0%}")
    print(f"all: {killed.total()} of {total.total()} killed, {killed.total() / max(1, total.total()):.0%}")
    for row in rows:
        if row["outcome"] != "killed":
            print(f"{row['outcome']}: {row['file']}:{row['line']} {row['kind']}: {row['old']!r} -> {row['new']!r}")


if __name__ == "__main__":
    main()
