"""What a test run of `forked.py` adds to pytest: kept fixtures, fewer examples, and what each test did."""

import inspect
import json
import shutil
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest
from hypothesis import settings

# Fixtures of tests/conftest.py that are folders: made once and given to each run.
KEPT: Final = ("demo_repository", "samples")
# Fixtures that start a process; tests that use one are not unit tests.
_PROCESSES: Final = frozenset({"start_server", "demo_server", *KEPT})
_EXAMPLES: Final = 20

settings.register_profile("mutants", deadline=None, max_examples=_EXAMPLES, database=None)


class Kept:
    """Gives each run the folders in `kept`, and its servers the latency tables there."""

    def __init__(self, kept: Path) -> None:
        self._kept = kept

    def pytest_collection(self) -> None:
        """Use few examples; tests/conftest.py, which loads its own profile, has been imported."""
        settings.load_profile("mutants")

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Generator[None, Any, Any]:
        """Copy the kept tables to the folder that the fixture's servers use."""
        value = yield
        if fixturedef.argname == "start_server":
            tables = inspect.getclosurevars(inspect.unwrap(value)).nonlocals["tables"]
            kept = self._kept / "tables"
            if any(kept.iterdir()):
                shutil.copytree(kept, tables, dirs_exist_ok=True)
            else:
                # The first run fills the kept folder.
                tables.rmdir()
                tables.symlink_to(kept)
        return value


class KeptFolders:
    """Replaces the fixtures whose folders are kept."""

    def __init__(self, kept: Path) -> None:
        self._kept = kept

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Path | None:
        """Return the kept folder."""
        if fixturedef.argname not in KEPT:
            return None
        folder: Path = self._kept / fixturedef.argname
        fixturedef.cached_result = (folder, fixturedef.cache_key(request), None)
        return folder


class FirstFailure:
    """Writes the name of the first test that fails to a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write it at once, as a mutant may end the process."""
        if report.failed and not self._file.exists():
            self._file.write_text(report.nodeid)


class Traced:
    """Runs the unit tests only, and writes seconds and lines below `folder` of each test that passes.

    Lines that fixtures run for one test of a file count for all its tests, as they may share the fixture.
    """

    def __init__(self, file: Path, folder: str) -> None:
        self._file, self._folder = file, folder
        self._current: set[tuple[str, int]] = set()
        self._seconds: dict[str, float] = {}
        self._failed: set[str] = set()
        self._lines: dict[str, set[tuple[str, int]]] = {}
        self._shared: dict[str, set[tuple[str, int]]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out tests that start processes, and trace from here on."""
        items[:] = [item for item in items if not _PROCESSES & set(getattr(item, "fixturenames", ()))]
        threading.settrace(self._on_call)
        sys.settrace(self._on_call)

    def _on_call(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._on_line if frame.f_code.co_filename.startswith(self._folder) else None

    def _on_line(self, frame: FrameType, event: str, argument: object) -> Any:
        self._current.add((frame.f_code.co_filename.removeprefix(self._folder), frame.f_lineno))
        return self._on_line

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Record the lines of fixtures."""
        self._current = set()
        try:
            return (yield)
        finally:
            self._shared.setdefault(item.nodeid.partition("::")[0], set()).update(self._current)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Record the lines of the test."""
        try:
            return (yield)
        finally:
            self._lines[item.nodeid] = self._current

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up a test's seconds."""
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write all as JSON: name -> [seconds, lines]."""
        sys.settrace(None)
        found = {
            test: [self._seconds[test], sorted(lines | self._shared[test.partition("::")[0]])]
            for test, lines in self._lines.items()
            if test not in self._failed
        }
        self._file.write_text(json.dumps(found))
