"""Replaces a model's sessions after runs that do not end, or that lack memory; says when the model cannot serve on.

Also closes the sessions of an unused model, and opens them at its next request:

    open ──unload──→ unloaded ──reopen──→ being opened ──→ open
                        ↑                      │
                        └──────── failed ──────┘
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn

from resonnx_server.errors import ModelRefused
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.session_pool import AnySessionPool

_log = logging.getLogger(__name__)

# Threads of hung runs on a device beyond which a model whose run hangs is stopped.
MOST_ABANDONED: Final = 8
# After a lack of memory a session is not replaced sooner than after this time, as the input may be too large.
_MEMORY_PAUSE_NS: Final = 30_000_000_000

# A hung run was interrupted, or its thread left; a session is replaced; it was; the model cannot serve any more. The
# sessions were closed, as the model is unused; they are being opened; they were; or could not be.
EventKind = Literal[
    "interrupted", "abandoned", "replacing", "replaced", "stopped", "unloaded", "reopening", "reopened", "not_reopened"
]


@dataclass(frozen=True)
class Event:
    """What happened to a model's session, and why or how."""

    kind: EventKind
    detail: str = ""


class Replacement:
    """The sessions of one model that are being replaced, or are closed. Guarded by the device's lock.

    Args:
        device: The model's.
        tell: Called with each event, on any thread.

    Attributes:
        is_paused: No job may begin: a session is being replaced, or none could be, or the sessions are closed.
        is_unloaded: The sessions are closed, or are being opened after that.
        is_opening: They are being opened.
    """

    def __init__(self, device: Device, tell: Callable[[Event], None]) -> None:
        self.is_paused = self.is_unloaded = self.is_opening = False
        self._device, self._tell = device, tell
        self._under_way: list[AnySessionPool] = []
        self._is_stopped = False
        self._last_for_memory_ns: int | None = None

    def interrupted(self) -> None:
        """Note that a hung run was interrupted and has ended: its session serves on."""
        self._tell(Event("interrupted"))

    def abandoned(self, pool: AnySessionPool) -> None:
        """Replace a session whose run hangs."""
        self._tell(Event("abandoned"))
        if self._device.abandoned() > MOST_ABANDONED:
            self._stop(f"more than {MOST_ABANDONED} runs hang; restart the server")
        else:
            self._begin(pool, "a run hung")

    def lacks_memory(self, pool: AnySessionPool) -> None:
        """Replace a session that lacks memory even for the smallest batch; not for each of many such batches."""
        now = self._device.clock()
        if self._last_for_memory_ns is None or now - self._last_for_memory_ns > _MEMORY_PAUSE_NS:
            self._last_for_memory_ns = now
            self._begin(pool, "a run lacked memory")

    def unload(self, pools: Sequence[AnySessionPool]) -> list[Callable[..., Any]]:
        """Let go of all sessions, until `reopen`; no job may be under way.

        Returns:
            What holds them now; nothing if they cannot be closed now.
        """
        if self.is_paused or any(pool.let_go is None or pool.open_again is None for pool in pools):
            return []
        self.is_unloaded = self.is_paused = True
        self._tell(Event("unloaded"))
        return _close(pools)

    def reopen(self, pools: Sequence[AnySessionPool], failed: Callable[[str], None]) -> None:
        """Open the sessions that `unload` has closed, on a thread, once for all that ask for it meanwhile.

        Args:
            pools: As given to `unload`.
            failed: Called with the reason, on the thread and with the lock held, if one cannot be opened. They stay
                closed then, until the next call of this method.
        """
        if not self.is_opening and not self._is_stopped:
            self.is_opening = True
            self._tell(Event("reopening"))
            threading.Thread(target=self._reopen, args=(pools, failed), name="reopen-sessions", daemon=True).start()

    def end(self) -> None:
        """Tell nothing any more, and replace no session: the model is freed."""
        self._is_stopped = self.is_paused = True
        self._tell = lambda _: None

    def _begin(self, pool: AnySessionPool, why: str) -> None:
        if self._is_stopped or any(other is pool for other in self._under_way):
            return
        self._under_way.append(pool)
        self.is_paused = True
        self._tell(Event("replacing", why))
        threading.Thread(target=self._replace, args=(pool, why), name="replace-session", daemon=True).start()

    def _replace(self, pool: AnySessionPool, why: str) -> None:
        run: Callable[..., Any] = pool.run
        reason = None
        try:
            if pool.open_again is not None:
                run = pool.open_again()
        except Exception as error:  # ONNX Runtime's errors share no base class
            _log.exception("a session could not be replaced")
            reason = f"{why}, and its session could not be opened again: {error}"
        with self._device.lock:
            self._under_way.remove(pool)
            if self._is_stopped:
                # Among others because the model was freed: no session is held by it any more.
                return
            if reason is not None:
                self._stop(reason)
                return
            pool.run = run
            self.is_paused = bool(self._under_way)
            self._tell(Event("replaced"))
            self._device.wake()

    def _reopen(self, pools: Sequence[AnySessionPool], failed: Callable[[str], None]) -> None:
        opened: list[Callable[..., Any]] = []
        reason = None
        began_ns = self._device.clock()
        try:
            opened += [pool.open_again() for pool in pools if pool.open_again is not None]
        except ModelRefused as refused:
            reason = refused.message
        except Exception:  # as above
            _log.exception("the sessions of an unused model could not be opened again")
            reason = "the server's log has the details"
        with self._device.lock:
            self.is_opening = False
            if self._is_stopped:
                return
            if reason is not None:
                _close(pools)
                self._tell(Event("not_reopened", reason))
                failed(reason)
                return
            for pool, run in zip(pools, opened, strict=True):
                pool.run = run
            self.is_unloaded = self.is_paused = False
            self._tell(Event("reopened", f"in {(self._device.clock() - began_ns) / 1e9:.2f} s"))
            self._device.wake()

    def _stop(self, reason: str) -> None:
        if not self._is_stopped:
            self._is_stopped = self.is_paused = True
            self._tell(Event("stopped", reason))


def _close(pools: Sequence[AnySessionPool]) -> list[Callable[..., Any]]:
    """Let go of the sessions; returns what holds them still."""
    held = [pool.run for pool in pools]
    for pool in pools:
        pool.run = _closed
        if pool.let_go is not None:
            pool.let_go()
    return held


def _closed(*_: object, **__: object) -> NoReturn:
    raise AssertionError("no job begins while the sessions are closed")
