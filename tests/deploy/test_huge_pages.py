"""The variable that the server's image and the quick start set gives a server huge pages."""

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def _tunables(file: str) -> str:
    found = re.search(r'GLIBC_TUNABLES"?[=:] ?"?(glibc[\w.=]+)', (_ROOT / file).read_text())
    assert found is not None
    return found[1]


@pytest.mark.skipif(not _ENABLED.exists() or "[never]" in _ENABLED.read_text(), reason="the system gives none")
def test_a_server_has_huge_pages(start_server, demo_repository: Path) -> None:
    tunables = _tunables("server/Dockerfile")
    assert _tunables("deploy/quickstart.py") == tunables
    assert _tunables("benchmarks/load/server_process.py") == tunables
    with start_server(demo_repository, environment={"GLIBC_TUNABLES": tunables}) as server:
        pages = Path(f"/proc/{server.process.pid}/smaps_rollup").read_text()
    found = re.search(r"^AnonHugePages:\s+(\d+) kB", pages, re.MULTILINE)
    assert found is not None
    assert int(found[1]) > 10_000
