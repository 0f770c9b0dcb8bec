"""Loads work side by side, and one that measures works alone; waiting for that is no fault of a load."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.loading import loads
from resonnx_server.repository.loading.loads import Loading
from resonnx_server.repository.progress import Progress

from ...waiting import until
from .acts import CACHED, LONG_S, Act, Loader, Observer, fails, folders, hung


class Working:
    """Counts the loads that work, and those beside which one measured."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = self.most = 0
        self.beside: list[int] = []

    def load(self, *, measures: bool, first: Callable[[], object] = lambda: None) -> Act:
        """An act that works after `first`, and then measures or not."""

        def act(progress: Progress) -> None:
            self._change(1)
            first()
            self._change(-1)
            if measures:
                progress.measure_alone()
                self.beside.append(self._now)
            self._change(1)
            progress.move()
            self._change(-1)

        return act

    def _change(self, by: int) -> None:
        with self._lock:
            self._now += by
            self.most = max(self.most, self._now)


async def _run(loading: Loading, *names: str, beside: bool = False) -> None:
    await asyncio.wait_for(loading.run(folders(CACHED, *names), beside=beside), LONG_S)


async def test_as_many_work_side_by_side_as_may() -> None:
    """Three meet, which no fewer could; six are never more."""
    working, meeting = Working(), threading.Barrier(3)
    loader = Loader(**{name: working.load(measures=False, first=lambda: meeting.wait(LONG_S)) for name in "abcdef"})
    await _run(Loading(loader.load, Observer(), LONG_S, most=3), *"abcdef")
    assert working.most == 3


async def test_who_measures_works_alone_and_in_turn() -> None:
    """All three are under way at once, and two of them want to be alone."""
    working, meeting = Working(), threading.Barrier(3)
    loader = Loader(
        **{name: working.load(measures=name != "b", first=lambda: meeting.wait(LONG_S)) for name in "abc"},
        **{name: working.load(measures=name == "e") for name in "de"},
    )
    observer = Observer()
    await _run(Loading(loader.load, observer, LONG_S, most=3), *"abcde")
    assert working.beside == [0, 0, 0]
    assert observer.told == dict.fromkeys("abcde", "serves")
    for name in "ac":
        stages = [stage for of, stage in observer.stages if of == name]
        assert stages in (["verifying", "measuring"], ["verifying", "waiting", "measuring"])


@pytest.mark.parametrize("first", [Progress.measure_alone, fails(ModelRefused("is bad"))])
async def test_they_come_one_after_the_other_until_one_finds_all_in_the_cache(first: Act) -> None:
    """As the next one may take long, for which one that measures would wait."""
    working, observer = Working(), Observer()
    loader = Loader(a=first, b=working.load(measures=True), c=working.load(measures=True))
    loading = Loading(loader.load, observer, LONG_S, most=4)
    await asyncio.wait_for(loading.run(folders(*"abcde")), LONG_S)
    assert "waiting" not in [stage for _, stage in observer.stages]
    names = [name for name, _ in observer.stages]
    assert names[: names.index("d")] == sorted(names[: names.index("d")])


async def test_nothing_begins_while_one_waits_to_measure() -> None:
    """Or it could wait for ever."""
    goes_on = threading.Event()
    loader, observer = Loader(a=lambda _: goes_on.wait(LONG_S), b=Progress.measure_alone), Observer()
    running = asyncio.create_task(_run(Loading(loader.load, observer, LONG_S, most=2), *"abc"))
    await until(lambda: ("b", "waiting") in observer.stages)
    assert loader.begun == ["a", "b"]
    goes_on.set()
    await running
    assert observer.stages.index(("b", "measuring")) < observer.stages.index(("c", "verifying"))


@pytest.mark.parametrize("measures", [False, True])
async def test_a_load_that_hangs_does_not_keep_others_from_measuring(measures: bool) -> None:
    with hung() as hangs:

        def act(progress: Progress) -> None:
            if measures:
                progress.measure_alone()
            hangs(progress)

        observer = Observer()
        loading = Loading(Loader(a=act, b=Progress.measure_alone).load, observer, LONG_S, stalled_s=0.05, most=2)
        running = asyncio.create_task(_run(loading, *"abc"))
        await until(lambda: len(observer.told) == 2)
        assert observer.told == {"b": "serves", "c": "serves"}
    await running
    assert observer.told["a"] == "serves"


async def test_a_load_that_is_abandoned_does_not_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "_ENDING_S", 0.01)
    with hung() as hangs:
        observer = Observer()
        loading = Loading(Loader(a=hangs, b=Progress.measure_alone).load, observer, 0.2, most=2)
        await _run(loading, *"abc")
        assert observer.told["a"].startswith("its load took longer")
        assert observer.told["b"] == observer.told["c"] == "serves"
    assert await loading.end(LONG_S)


async def test_waiting_is_neither_standing_still_nor_taking_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that is put forward: the limit is 100 s, and a load is passed after 50 s without progress."""
    loop, ahead_s = asyncio.get_running_loop(), 0.0
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + ahead_s)
    goes_on = {name: threading.Event() for name in "ab"}
    progresses: dict[str, Progress] = {}

    def working(name: str, act: Act) -> Act:
        def load(progress: Progress) -> None:
            progress.clock = lambda: loop.time()
            progresses[name] = progress
            act(progress)
            goes_on[name].wait(LONG_S)

        return load

    loader, observer = Loader(a=working("a", lambda _: None), b=working("b", Progress.measure_alone)), Observer()
    loading = Loading(loader.load, observer, 100.0, stalled_s=50.0, most=2)
    running = asyncio.create_task(loading.run(folders(CACHED, *"ab")))
    await until(lambda: ("b", "waiting") in observer.stages and "a" in progresses)
    waits = next(load for load in loading.under_way if load.folder.name == "b")
    for _ in range(2):
        progresses["a"].move()
        ahead_s += 45
        assert waits.idle_s() == 0
        assert waits.worked_s < 5
    goes_on["a"].set()
    await until(lambda: ("b", "measuring") in observer.stages)
    assert waits.idle_s() < 5, "it does not count from before it waited"
    ahead_s += 45
    assert 45 < waits.worked_s < 50
    assert waits.seconds > 135
    goes_on["b"].set()
    await running
    assert observer.told == {"a": "serves", "b": "serves"}


async def test_a_load_that_waits_can_be_cancelled() -> None:
    """As a model that is unloaded while it is loaded; the others go on."""
    goes_on = threading.Event()
    loader, observer = Loader(a=lambda _: goes_on.wait(LONG_S), b=Progress.measure_alone), Observer()
    loading = Loading(loader.load, observer, LONG_S, most=2)
    running = asyncio.create_task(_run(loading, *"abc"))
    await until(lambda: ("b", "waiting") in observer.stages)
    next(load for load in loading.under_way if load.folder.name == "b").cancel()
    await until(lambda: len(observer.told) == 2)
    assert observer.told == {"b": "the load was cancelled", "c": "serves"}
    goes_on.set()
    await running
    assert observer.told == {"a": "serves", "b": "the load was cancelled", "c": "serves"}


async def test_loads_side_by_side_end_with_the_server() -> None:
    """One that waits to measure ends at once, one that works when it can."""
    goes_on = threading.Event()
    ended: list[str] = []

    def measures(progress: Progress) -> None:
        try:
            progress.measure_alone()
        finally:
            ended.append("b")

    loader, observer = Loader(a=lambda _: goes_on.wait(LONG_S), b=measures), Observer()
    loading = Loading(loader.load, observer, LONG_S, most=2)
    running = asyncio.create_task(_run(loading, *"abc"))
    await until(lambda: ("b", "waiting") in observer.stages)
    running.cancel()
    await asyncio.wait({running})
    assert not await loading.end(0.01)
    await until(lambda: ended)
    goes_on.set()
    assert await loading.end(LONG_S)
    assert observer.told == {}
    assert loader.begun == ["a", "b"]


@pytest.mark.parametrize(("free", "beside", "most"), [(1200, False, 2), (1199, False, 1), (1200, True, 1)])
async def test_loads_are_alone_where_memory_is_short_or_models_serve(free: int, beside: bool, most: int) -> None:
    """Files of 100 bytes, and six times their size for each load."""
    working, meeting = Working(), threading.Barrier(2)
    meet: Callable[[], Any] = (lambda: meeting.wait(LONG_S)) if most > 1 else (lambda: None)
    loader = Loader(**{name: working.load(measures=False, first=meet) for name in "abcd"})
    loading = Loading(loader.load, Observer(), LONG_S, most=4, free_bytes=lambda: free)
    await asyncio.wait_for(loading.run(folders(CACHED, *"abcd", nbytes=100), beside=beside), LONG_S)
    assert working.most == most
