"""Files that change while the server runs."""

import asyncio
import logging
import os
from pathlib import Path

import pytest
from resonnx_server.access import reloaded
from resonnx_server.access.reloaded import Reloaded, keep_fresh

from ..waiting import until


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as written at once, unless a test says otherwise."""
    monkeypatch.setattr(reloaded, "SETTLED_S", 0.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "number"
    path.write_text("1")
    return path


def test_a_changed_file_is_read_and_a_broken_one_is_told_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    number = Reloaded([file], lambda: int(file.read_text()))
    with caplog.at_level(logging.INFO):
        number.refresh()
        assert not caplog.records
        file.write_text("23")
        number.refresh()
        assert number.value == 23
        assert [record.message for record in caplog.records] == ["read changed files"]
        caplog.clear()
        file.write_text("not a number")
        for _ in range(3):
            number.refresh()
        assert number.value == 23
        (line,) = caplog.records
        assert "the former stay in force" in line.message
        assert "not a number" in vars(line)["why"]
        caplog.clear()
        file.unlink()
        number.refresh()
        number.refresh()
        assert (number.value, len(caplog.records)) == (23, 1)
        file.write_text("4")
        number.refresh()
        assert number.value == 4


def test_a_replaced_link_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes changes mounted secrets: same size, and perhaps the same time."""
    for name, text in (("old", "1"), ("new", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "number").write_text(text)
        os.utime(tmp_path / name / "number", (0, 0))
    data = tmp_path / "data"
    data.symlink_to("old")
    number = Reloaded([data / "number"], lambda: int((data / "number").read_text()))
    fresh = tmp_path / "fresh"
    fresh.symlink_to("new")
    fresh.replace(data)
    number.refresh()
    assert number.value == 2


def test_a_file_that_changes_while_it_is_read_is_read_again(file: Path) -> None:
    texts = ["22", "333"]

    def read() -> str:
        text = file.read_text()
        if texts:
            file.write_text(texts.pop(0))
        return text

    value = Reloaded([file], read)
    assert value.value == "1"
    value.refresh()
    assert value.value == "1", "it changed again"
    value.refresh()
    assert value.value == "333"


def test_a_file_that_is_being_written_is_not_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it may be valid: the first of two keys, the first of two digits."""
    monkeypatch.setattr(reloaded, "SETTLED_S", 60.0)
    number = Reloaded([file], lambda: int(file.read_text()))
    assert number.value == 1
    for text in ("2", "23"):
        file.write_text(text)
        number.refresh()
        assert number.value == 1
    os.utime(file, (0, 0))
    number.refresh()
    assert number.value == 23
    # A clock that was set back keeps no change away.
    file.write_text("4")
    os.utime(file, (1 << 32, 1 << 32))
    number.refresh()
    assert number.value == 4


def test_a_first_value_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Reloaded([tmp_path / "none"], (tmp_path / "none").read_text)


async def test_values_are_kept_fresh(file: Path) -> None:
    number = Reloaded([file], lambda: int(file.read_text()))
    task = asyncio.create_task(keep_fresh([number], poll_s=0.001))
    await asyncio.to_thread(file.write_text, "22")
    await until(lambda: number.value == 22)
    task.cancel()
    await asyncio.wait({task})
