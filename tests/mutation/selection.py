"""Which unit tests run a line of the server, found by one traced run of all of them."""

import json
from dataclasses import dataclass
from pathlib import Path

from mutation.changes import Mutant
from mutation.forked import ForkedTests
from mutation.plugins import Traced

_FOLDER = "server/resonnx_server/"
# Tests run in groups, the first of which is this quick.
_QUICK_S = 2.0


@dataclass(frozen=True)
class Group:
    """Tests that run in one process, and the seconds that they take without a mutant."""

    tests: list[str]
    seconds: float


@dataclass(frozen=True)
class _Covered:
    name: str
    seconds: float
    lines: dict[str, set[int]]

    def runs(self, mutant: Mutant) -> bool:
        lines = self.lines.get(mutant.file, set())
        return any(number in lines for number in range(mutant.line, mutant.last_line + 1))


class TestMap:
    """The unit tests of `tree`, and the lines that each runs; kept in the folder `work`."""

    def __init__(self, forked: ForkedTests, tree: Path, work: Path) -> None:
        kept = work / "map.json"
        if not kept.exists():
            traced = work / "traced.json"
            forked.pytest(["tests/server"], [Traced(traced, f"{tree}/{_FOLDER}")], 3600.0)
            traced.rename(kept)
        self._tests = [_covered(name, *found) for name, found in json.loads(kept.read_text()).items()]

    def groups(self, mutant: Mutant, budget_s: float) -> list[Group]:
        """Return the tests that run the mutant's line, the quickest first, up to `budget_s` in all.

        A mutant that runs on import, or in a line that no test runs, may show in any test of the module.
        """
        tests = [test for test in self._tests if test.runs(mutant)]
        if mutant.on_import or not tests:
            tests = [test for test in self._tests if mutant.file in test.lines]
        files: dict[str, list[_Covered]] = {}
        for test in sorted(tests, key=lambda test: test.seconds):
            if budget_s > test.seconds:
                budget_s -= test.seconds
                files.setdefault(test.name.partition("::")[0], []).append(test)
        groups: list[Group] = []
        names: list[str] = []
        seconds = 0.0
        for file in sorted(files.values(), key=_seconds):
            if names and seconds + _seconds(file) > _QUICK_S:
                groups.append(Group(names, seconds))
                names, seconds = [], 0.0
            names = [*names, *(test.name for test in file)]
            seconds += _seconds(file)
        return [*groups, Group(names, seconds)] if names else []


def _covered(name: str, seconds: float, lines: list[tuple[str, int]]) -> _Covered:
    files: dict[str, set[int]] = {}
    for file, number in lines:
        files.setdefault(_FOLDER + file, set()).add(number)
    return _Covered(name, seconds, files)


def _seconds(tests: list[_Covered]) -> float:
    return sum(test.seconds for test in tests)
