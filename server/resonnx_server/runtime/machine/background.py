"""Work beside live traffic: a thread below the priority of batches; its sessions' own threads have that of batches."""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

T = TypeVar("T")

# Half of the processor time of a batch where both want it. Not the lowest priority: a thread that holds the GIL and
# gets no processor holds up the event loop, for seconds on a machine that is busy with other processes.
_BELOW: Final = 3
_this_thread = threading.local()


@contextmanager
def background() -> Iterator[None]:
    """Run the calling thread at a lower priority, for the rest of its life.

    ONNX Runtime's threads inherit the priority of the thread that opens their session, and an unprivileged process
    cannot raise it again. So sessions that have threads of their own are opened on a second thread: see `as_serving`.
    """
    works: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
    # Before the priority is lowered, which it inherits.
    threading.Thread(target=_serve, args=(works,), name="load-open", daemon=True).start()
    thread = threading.get_native_id()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _BELOW)
    _this_thread.works = works
    try:
        yield
    finally:
        del _this_thread.works
        works.put(None)


def as_serving(work: Callable[[], T]) -> T:
    """Return the result of `work`, run with the priority of threads that serve; raises its exception."""
    works = getattr(_this_thread, "works", None)
    if works is None:
        return work()
    done: Future[T] = Future()
    works.put((work, done))
    return done.result()


def _serve(works: "queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]") -> None:
    while (given := works.get()) is not None:
        work, done = given
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)
        # Not kept until the next one comes.
        del given, work, done
