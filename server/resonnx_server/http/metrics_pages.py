"""Makes the pages of metrics: one for each request, or for all equal requests of 0.2 s where there are many."""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from resonnx_server.observe.exposition import Format, Sight, page
from resonnx_server.observe.metrics import Metrics
from resonnx_server.pace import Pace

# Requests a second, and at once after a pause, that each get a new page. Further ones get the last page, unless it is
# older than _LAST_NS.
_FRESH_PER_S: Final = 5
_LAST_NS: Final = 200_000_000
# Pages of all kinds that are made in a second in the long run, and at once after a pause; requests for more wait.
_MADE_PER_S: Final = 25
_MADE_AT_ONCE: Final = 60

# Format, what is shown, and compression.
_Kind = tuple[Format, Sight | None, bool]


@dataclass(frozen=True, slots=True)
class _Made:
    """A page, and when its values were read, monotonic ns."""

    content: bytes
    read_ns: int


class MetricsPages:
    """Pages by format, compression and what they show. Event loop only.

    Args:
        metrics: The registry that they show.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # The tasks that will make pages, and have not begun.
        self._next: dict[_Kind, asyncio.Task[bytes]] = {}
        # Pages that are not older than _LAST_NS.
        self._last: dict[_Kind, _Made] = {}
        self._fresh = Pace(_FRESH_PER_S, _FRESH_PER_S)
        self._pace = Pace(_MADE_PER_S, _MADE_AT_ONCE)

    async def page(self, written: Format, sight: Sight | None = None, *, compressed: bool) -> bytes:
        """Return a page whose values were read after the call; beyond 5 calls a second, at most 0.2 s before it.

        Args:
            written: The format.
            sight: The samples that are shown; None for all.
            compressed: With gzip.
        """
        kind = written, sight, compressed
        making, now_ns = self._next.get(kind), time.monotonic_ns()
        is_many = self._fresh.delay_ns(now_ns, 0) > 0
        if is_many and (last := self._last.get(kind)) is not None and now_ns - last.read_ns <= _LAST_NS:
            return last.content
        if making is None:
            making = asyncio.create_task(self._make(kind, self._pace.delay_ns(now_ns) / 1e9))
            self._next[kind] = making
        # Shielded: others may wait for it as well.
        return await asyncio.shield(making)

    async def _make(self, kind: _Kind, delay_s: float) -> bytes:
        if delay_s:
            await asyncio.sleep(delay_s)
        del self._next[kind]
        written, sight, compressed = kind
        # Counters are read on the event loop, with a break after each family; the page is written on a thread.
        read_ns, families = time.monotonic_ns(), []
        for family in self._metrics.registry.collect():
            families.append(family)
            await asyncio.sleep(0)
        content = await asyncio.to_thread(page, families, written, sight, compressed=compressed)
        made = self._last[kind] = _Made(content, read_ns)
        asyncio.get_running_loop().call_later(_LAST_NS / 1e9, self._forget, kind, made)
        return content

    def _forget(self, kind: _Kind, made: _Made) -> None:
        if self._last.get(kind) is made:
            del self._last[kind]
