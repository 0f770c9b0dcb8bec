"""Who asks for huge pages, and that a server which asks gets them."""

import os
import re
from pathlib import Path

import pytest
from resonnx_server import huge_pages
from resonnx_server.huge_pages import with_huge_pages

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    mode = tmp_path / "enabled"
    mode.write_text("always [madvise] never\n")
    return mode


def test_the_allocator_is_told(asked: Path) -> None:
    told = with_huge_pages({"HOME": "/"}, asked)
    assert told == {"HOME": "/", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    assert with_huge_pages(told, asked) == told, "or programs would start again for ever"


def test_what_it_was_told_else_is_kept(asked: Path) -> None:
    other = "glibc.malloc.arena_max=2"
    assert with_huge_pages({"GLIBC_TUNABLES": other}, asked)["GLIBC_TUNABLES"] == f"{other}:glibc.malloc.hugetlb=1"
    refused = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
    assert with_huge_pages(refused, asked) == refused, "it is the user's choice"


@pytest.mark.parametrize("mode", ["[always] madvise never\n", "always madvise [never]\n", None])
def test_nothing_changes_where_asking_changes_nothing(tmp_path: Path, mode: str | None) -> None:
    if mode is not None:
        (tmp_path / "enabled").write_text(mode)
    assert with_huge_pages({"HOME": "/"}, tmp_path / "enabled") == {"HOME": "/"}


def test_a_program_is_started_again_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a loader drops the setting, as for programs with privileges of their own."""
    started: list[dict[str, str]] = []
    monkeypatch.setattr(huge_pages, "with_huge_pages", lambda environment: {**environment, "GLIBC_TUNABLES": "x"})
    monkeypatch.setattr(os, "execve", lambda program, arguments, environment: started.append(environment))
    huge_pages.start_again()
    (environment,) = started
    for name, value in environment.items():
        if name != "GLIBC_TUNABLES":
            monkeypatch.setenv(name, value)
    huge_pages.start_again()
    assert len(started) == 1


@pytest.mark.skipif(not ENABLED.exists() or "[never]" in ENABLED.read_text(), reason="the system gives none")
def test_a_server_has_huge_pages(start_server, demo_repository: Path) -> None:
    with start_server(demo_repository) as server:
        pages = Path(f"/proc/{server.process.pid}/smaps_rollup").read_text()
    found = re.search(r"^AnonHugePages:\s+(\d+) kB", pages, re.MULTILINE)
    assert found is not None
    assert int(found[1]) > 10_000
