"""Folders that change while they are looked at and loaded, and disks that fail: what serves is what was checked."""

import os
import threading
from pathlib import Path

import pytest
from resonnx_server.repository import control as controls
from resonnx_server.repository import loader
from resonnx_server.repository.progress import Progress
from resonnx_server.runtime.model_files.files import ModelUnreadable

from ... import answering
from ...waiting import until
from .changing import changing

FILE = "model.onnx"


async def test_files_that_change_while_they_are_loaded_are_refused_and_loaded_when_they_have_settled(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "m" / "1"
    answering.write(folder, 1)
    async with changing(tmp_path) as repository:
        (first,) = repository.models

        def change(_: Progress) -> None:
            repository.during = lambda _: None
            (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-100])

        repository.during = change
        answering.write(folder, 2)
        await repository.seen()
        assert "its files changed while it was loaded" in repository.states()[1][1]
        assert [*repository.models] == [first], "what serves serves on"
        answering.write(folder, 3)
        await repository.seen()
        assert repository.states() == {1: ("ready", "")}
        assert [*repository.models] != [first]


async def test_files_that_change_between_the_look_and_the_load_are_refused(tmp_path: Path) -> None:
    """Half of a version that is being written, say."""
    folder = tmp_path / "m" / "1"
    answering.write(folder, 1)
    async with changing(tmp_path) as repository:
        answering.write(folder, 2)
        repository.see()
        # Before the load has begun.
        answering.write(folder, 3)
        await repository.rest()
        assert "have changed since they were looked at" in repository.states()[1][1]
        await repository.seen()
        assert repository.states() == {1: ("ready", "")}


async def test_other_times_and_the_same_content_load_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "m" / "1"
    answering.write(folder, 1)
    async with changing(tmp_path) as repository:
        # The sum of what serves is known from its second load on.
        answering.write(folder, 2)
        await repository.seen()
        (before,) = repository.models
        os.utime(folder / FILE, (1, 1))
        await repository.seen()
        assert repository.results() == {"ready": 2, "unchanged": 1}
        assert [*repository.models] == [before]


async def test_versions_that_swap_their_folders_swap_their_answers(tmp_path: Path) -> None:
    """With the files' own times, as `mv` leaves them."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.toml").write_text('version_policy = "all"\n')
    one, two, beside = (tmp_path / "m" / name for name in ("1", "2", ".beside"))
    for answer, folder in enumerate((one, two), 1):
        answering.write(folder, answer)
    async with changing(tmp_path) as repository:
        before = {model.version: model.identity for model in repository.models}
        one.rename(beside)
        two.rename(one)
        beside.rename(two)
        await repository.seen()
        assert {model.version: model.identity for model in repository.models} == {1: before[2], 2: before[1]}
        assert before[1] != before[2]


async def test_a_change_during_a_load_takes_its_place(tmp_path: Path) -> None:
    """Two changes at once: the load of the first ends unused, and never serves."""
    folder = tmp_path / "m" / "1"
    answering.write(folder, 1)
    async with changing(tmp_path) as repository:
        loaded, goes_on = threading.Event(), threading.Event()

        def hold(_: Progress) -> None:
            loaded.set()
            assert goes_on.wait(20)

        repository.during = hold
        answering.write(folder, 2)
        repository.see()
        await until(loaded.is_set)
        answering.write(folder, 3)
        answering.write(tmp_path / "m" / "2", 4)
        repository.see()
        repository.during = lambda _: None
        goes_on.set()
        await repository.rest()
        assert repository.results().get("ready") == 2, "at the start, and version 2"
        (model,) = repository.models
        assert model.version == 2


async def test_settings_that_cannot_be_read_for_a_while_do_not_undo_a_promotion(tmp_path: Path) -> None:
    for version in (1, 2):
        answering.write(tmp_path / "m" / str(version), version)
    settings = tmp_path / "m" / "config.toml"
    settings.write_text('version_policy = "all"\n')
    async with changing(tmp_path) as repository:
        await repository.control.promote("m", 1)
        assert repository.models.get("m").version == 1
        settings.write_text("version_policy =")
        await repository.seen()
        assert "is not TOML" in repository.states()[1][1]
        settings.write_text('version_policy = "all"\n')
        await repository.seen()
        assert repository.models.get("m").version == 1


async def test_a_disk_that_fails_is_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Files that could not be read are read again without a change of them; the old version serves meanwhile."""
    folder, failures = tmp_path / "m" / "1", 2
    answering.write(folder, 1)
    monkeypatch.setattr(controls, "_FIRST_RETRY_S", 0.01)
    async with changing(tmp_path) as repository:
        (first,) = repository.models
        read = loader.read_version

        def fail(*asked: object) -> object:
            nonlocal failures
            failures -= 1
            if failures >= 0:
                raise ModelUnreadable("model.onnx cannot be read: Input/output error")
            return read(*asked)

        monkeypatch.setattr(loader, "read_version", fail)
        answering.write(folder, 2)
        await repository.seen()
        assert "Input/output error" in repository.states()[1][1]
        assert [*repository.models] == [first]
        await until(lambda: repository.results().get("ready") == 2)
        assert repository.results() == {"ready": 2, "refused": 2}
        await repository.rest()
