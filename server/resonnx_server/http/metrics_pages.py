"""Pages of metrics: made for each request, and where many come, for all alike that wait for the next one together."""

import asyncio
import time
from typing import Final

from resonnx_server.observe.exposition import Format, Sight, page
from resonnx_server.observe.metrics import Metrics
from resonnx_server.pace import Pace

# Pages that are made in a second in the long run, and at once after a pause.
_MADE_PER_S: Final = 25
_MADE_AT_ONCE: Final = 60

# Format, what is shown, and compression.
_Kind = tuple[Format, Sight | None, bool]


class MetricsPages:
    """Pages by format, compression and what they show.

    Args:
        metrics: The registry that they show.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # The tasks that will make pages, and have not begun.
        self._next: dict[_Kind, asyncio.Task[bytes]] = {}
        self._pace = Pace(_MADE_PER_S, _MADE_AT_ONCE)

    async def page(self, written: Format, sight: Sight | None = None, *, compressed: bool) -> bytes:
        """Return a page of values that are not older than the request; beyond the pace, at most 0.04 s later.

        Args:
            written: The format.
            sight: The samples that are shown; None for all.
            compressed: With gzip.
        """
        kind = written, sight, compressed
        making = self._next.get(kind)
        if making is None:
            delay_ns = self._pace.delay_ns(time.monotonic_ns())
            making = asyncio.create_task(self._make(kind, delay_ns / 1e9))
            self._next[kind] = making
        # Shielded: others may wait for it as well.
        return await asyncio.shield(making)

    async def _make(self, kind: _Kind, delay_s: float) -> bytes:
        if delay_s:
            await asyncio.sleep(delay_s)
        del self._next[kind]
        written, sight, compressed = kind
        # Counters are read on the event loop, with a break after each family; the page is written on a thread.
        families = []
        for family in self._metrics.registry.collect():
            families.append(family)
            await asyncio.sleep(0)
        return await asyncio.to_thread(page, families, written, sight, compressed=compressed)
