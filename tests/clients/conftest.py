"""A server for the tests of each client, and what the client is seen to use."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from ..conftest import RunningServer
from . import matrix, served

_RECORDS = "RECORD_CLIENTS" in os.environ
_PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note whether a test passed: what a client was seen to use counts only then."""
    report = yield
    if report.when == "call":
        item.stash[_PASSED] = report.passed
    return report


@pytest.fixture
def everything(start_server, demo_repository: Path, tmp_path: Path) -> Iterator[RunningServer]:
    """A server of one test only, as clients load, unload and promote models and change settings."""
    with served.everything(start_server, demo_repository, tmp_path / "served") as server:
        yield server


@pytest.fixture
def tapped(everything: RunningServer, samples: Path, tmp_path: Path) -> Iterator[served.Tapped]:
    with served.tapped(everything, served.told(samples, tmp_path / "own")) as seen:
        yield seen
        assert everything.process.poll() is None
        assert "Traceback" not in everything.log.read_text()


@pytest.fixture
def client(request: pytest.FixtureRequest, tapped: served.Tapped) -> Iterator[str]:
    """The client's name. It must use what its file in covered/ says; with RECORD_CLIENTS, the file is written."""
    name: str = request.param
    yield name
    if not request.node.stash.get(_PASSED, False):
        return
    seen = {matrix.named(use) for use in tapped.uses()} & matrix.served()
    if _RECORDS:
        matrix.write(name, seen)
    else:
        assert matrix.uses_of(name) - seen == set(), "run `make clients`, which writes what is seen"
