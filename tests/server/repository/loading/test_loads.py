"""Loads that fail, hang or take too long hold up neither the other models nor the stop."""

import asyncio
import gc
import logging
import threading
import weakref

import pytest
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.loading.load import ModelUnchanged
from resonnx_server.repository.loading.loads import Loading
from resonnx_server.repository.progress import Progress
from resonnx_server.runtime.cancellation import Cancellation

from ...waiting import until
from .acts import LONG_S, Loader, Observer, fails, folders, hung


async def test_models_are_loaded_in_their_order_and_told(caplog: pytest.LogCaptureFixture) -> None:
    loader = Loader(b=fails(ModelRefused("is bad")), c=fails(ValueError("secret")))
    observer = Observer()
    loading = Loading(loader.load, observer, LONG_S, most=1)
    await asyncio.wait_for(loading.run(folders("a", "b", "c", "d")), LONG_S)
    assert loader.begun == ["a", "b", "c", "d"]
    unforeseen = "could not be loaded; the server's log has the details"
    assert observer.told == {"a": "serves", "b": "is bad", "c": unforeseen, "d": "serves"}
    assert observer.stages == [(name, "verifying") for name in "abcd"]
    assert "secret" in caplog.text
    assert list(loading.under_way) == []


async def test_a_load_that_takes_too_long_is_refused_and_the_next_begins(caplog: pytest.LogCaptureFixture) -> None:
    with hung() as hangs:
        loader, observer = Loader(a=hangs), Observer()
        loading = Loading(loader.load, observer, 0.2)
        await asyncio.wait_for(loading.run(folders("a", "b")), LONG_S)
        assert observer.told == {
            "a": "its load took longer than 0.2 s (load_timeout_s); it was verifying",
            "b": "serves",
        }
        assert [load.folder.name for load in loading.under_way] == ["a"]
        assert "abandoned" in caplog.text
        assert not await loading.end(0.01)
    assert await loading.end(LONG_S), "what ends later is not waited for"
    assert observer.told["a"].startswith("its load took")


async def test_a_loads_own_timeout_is_not_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    """As a network's file system raises."""
    observer = Observer()
    await Loading(Loader(a=fails(TimeoutError("no answer"))).load, observer, LONG_S).run(folders("a"))
    assert "log has the details" in observer.told["a"]


class Opened:
    """A session, as a load holds it."""


@pytest.mark.parametrize("error", [ModelRefused("is bad"), ModelUnchanged(), ValueError("secret")])
async def test_a_load_that_ends_without_a_model_frees_its_sessions_without_garbage_collection(error: Exception) -> None:
    """Garbage is collected rarely; the load's own thread and frames go as well."""
    left: list[weakref.ref[object]] = []

    def act(progress: Progress) -> None:
        session = Opened()
        # What covers it, and what is called at each stage.
        Cancellation.on_cancel(lambda: session)
        left.extend([weakref.ref(session), weakref.ref(threading.current_thread()), weakref.ref(progress)])
        raise error

    # What pytest captures of the log would keep the errors.
    logging.disable()
    gc.disable()
    try:
        await Loading(Loader(a=act).load, Observer(), LONG_S).run(folders("a"))
        # As the loader's caller does, which raises a new one each time.
        error.__traceback__ = None
        # The thread and the loop may still have a step to do.
        await until(lambda: len(left) == 3 and not any(kept() for kept in left))
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)


async def test_the_next_load_passes_one_that_does_nothing() -> None:
    """Long before it is refused; and it may serve yet."""
    passed = threading.Event()
    loader, observer = Loader(a=lambda _: passed.wait(LONG_S), b=lambda _: passed.set()), Observer()
    loading = Loading(loader.load, observer, LONG_S, stalled_s=0.05, most=1)
    await asyncio.wait_for(loading.run(folders("a", "b")), LONG_S)
    assert observer.told == {"a": "serves", "b": "serves"}


async def test_a_load_that_does_something_is_not_passed() -> None:
    """However long it takes: by its clock each step is later by more than a load may stand still."""
    order: list[str] = []
    now = 0.0

    def clock() -> float:
        nonlocal now
        if threading.current_thread().name == "load-a":
            now += 1
        return now

    def steps(progress: Progress) -> None:
        progress.clock = clock
        for _ in range(20):
            progress.move()
            # Long enough to be looked at.
            threading.Event().wait(0.02)
        order.append("a")

    loader = Loader(a=steps, b=lambda _: order.append("b"))
    loading = Loading(loader.load, Observer(), LONG_S, stalled_s=0.05, most=1)
    await asyncio.wait_for(loading.run(folders("a", "b")), LONG_S)
    assert order == ["a", "b"]


async def test_loading_can_be_stopped_at_any_time() -> None:
    """Nothing more begins, and nothing serves that ends later."""
    began, goes_on = threading.Event(), threading.Event()

    def waits(_: Progress) -> None:
        began.set()
        goes_on.wait(LONG_S)

    loader, observer = Loader(a=waits), Observer()
    loading = Loading(loader.load, observer, LONG_S, most=1)
    running = asyncio.create_task(loading.run(folders("a", "b")))
    assert await asyncio.to_thread(began.wait, LONG_S)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not await loading.end(0.01)
    goes_on.set()
    assert await loading.end(LONG_S)
    assert loader.begun == ["a"]
    assert observer.told == {}


async def test_a_load_that_is_ended_goes_no_further() -> None:
    """At its next step, and its next session: see Cancellation."""
    began, goes_on = threading.Event(), threading.Event()
    said: list[str] = []

    def waits(progress: Progress) -> None:
        began.set()
        goes_on.wait(LONG_S)
        for step in (progress.move, lambda: progress.reach("measuring"), _open_session):
            with pytest.raises(ModelRefused) as refused:
                step()
            said.append(refused.value.message)

    loading = Loading(Loader(a=waits).load, Observer(), LONG_S)
    running = asyncio.create_task(loading.run(folders("a")))
    assert await asyncio.to_thread(began.wait, LONG_S)
    running.cancel()
    await asyncio.wait({running})
    goes_on.set()
    assert await loading.end(LONG_S)
    assert said == ["the load was cancelled"] * 3


def _open_session() -> None:
    import onnxruntime as ort

    Cancellation.cover(ort.SessionOptions(), lambda: None)
