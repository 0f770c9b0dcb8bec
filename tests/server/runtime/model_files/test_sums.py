"""Sums of files that were read are remembered, and only as long as the files look the same and are not new."""

import hashlib
import os
import threading
from pathlib import Path

import pytest
from resonnx_server.runtime.model_files import sums
from resonnx_server.runtime.model_files.files import NotReadable

_HOUR_NS = 3_600_000_000_000


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that are read from now on."""
    read, found = sums.read_regular, []

    def noted(path: Path, *limits: int) -> bytes:
        found.append(path)
        return read(path, *limits)

    monkeypatch.setattr(sums, "_sums", {})
    monkeypatch.setattr(sums, "read_regular", noted)
    return found


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    later = path.stat().st_ctime_ns + _HOUR_NS
    monkeypatch.setattr(sums.time, "time_ns", lambda: later)
    return path


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def test_a_file_that_has_not_changed_is_read_once(file: Path, readings: list[Path]) -> None:
    assert sums.read_summed(file) == (b"before", _sha256(b"before"))
    assert sums.sum_of(file) == _sha256(b"before")
    assert readings == [file]


def test_a_file_that_has_changed_is_read_again(file: Path, readings: list[Path]) -> None:
    assert sums.sum_of(file) == _sha256(b"before")
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    file.write_bytes(b"after!")
    os.utime(file, ns=times)
    # Of the same size and time of change; the time of its status differs.
    os.utime(file, ns=(times[0], times[1]))
    while file.stat().st_ctime_ns == times[1]:
        os.utime(file, ns=times)
    assert sums.sum_of(file) == _sha256(b"after!")
    other = file.with_name("other")
    other.write_bytes(b"another")
    other.replace(file)
    assert sums.sum_of(file) == _sha256(b"another")
    assert len(readings) == 3


def test_the_sum_of_a_file_that_was_just_written_is_not_remembered(
    file: Path, readings: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another write may leave its times as they are."""
    now = file.stat().st_ctime_ns + 1_000_000
    monkeypatch.setattr(sums.time, "time_ns", lambda: now)
    for _ in range(2):
        assert sums.sum_of(file) == _sha256(b"before")
    assert readings == [file, file]


def test_so_many_are_remembered_and_no_more(
    tmp_path: Path, file: Path, readings: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums, "_MOST", 2)
    files = [tmp_path / f"{number}" for number in range(3)]
    for path in files:
        path.write_bytes(path.name.encode())
        sums.read_summed(path)
    readings.clear()
    for path in reversed(files):
        assert sums.sum_of(path) == _sha256(path.name.encode())
    assert readings == files[:1]
    with pytest.raises(NotReadable):
        sums.sum_of(tmp_path)


def test_loads_side_by_side_may_forget_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One looks for the earliest while another adds: here at the worst moment."""

    class Forgetting(dict):  # type: ignore[type-arg]
        """Another reading comes between the look for the earliest and its removal, unless it has to wait."""

        def __delitem__(self, key: object) -> None:
            other = threading.Thread(target=sums.read_summed, args=(file,), daemon=True)
            others.append(other)
            if len(others) == 1:
                other.start()
                other.join(0.1)
            super().__delitem__(key)

        pop = __delitem__

    others: list[threading.Thread] = []
    monkeypatch.setattr(sums, "_MOST", 1)
    monkeypatch.setattr(sums, "_sums", Forgetting({(0, 0, 0, 0, 0): b""}))
    sums.read_summed(file)
    others[0].join(60)
    assert len(sums._sums) == 1
