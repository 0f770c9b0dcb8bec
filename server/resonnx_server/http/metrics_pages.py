"""The page of metrics, made for each request unless the last one is very new."""

import asyncio
from typing import Final

from resonnx_server.observe.exposition import Format, page
from resonnx_server.observe.metrics import Metrics

# A page is given again if it was begun less than this ago: beyond 5 requests a second, pages are shared.
_SHARED_S: Final = 0.2


class MetricsPages:
    """Pages by format and compression.

    Args:
        metrics: The registry that they show.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # When the last page was begun, and the task that makes it.
        self._pages: dict[tuple[Format, bool], tuple[float, asyncio.Task[bytes]]] = {}

    async def page(self, written: Format, *, compressed: bool) -> bytes:
        """Return a page that is not older than 0.2 s, or than the time that making one takes."""
        now_s = asyncio.get_running_loop().time()
        began_s, making = self._pages.get((written, compressed), (0.0, None))
        if making is None or (making.done() and now_s - began_s >= _SHARED_S):
            making = asyncio.create_task(self._make(written, compressed))
            self._pages[written, compressed] = now_s, making
        # Shielded: others may wait for it as well.
        return await asyncio.shield(making)

    async def _make(self, written: Format, compressed: bool) -> bytes:
        # Counters are read on the event loop, with a break after each family; the page is written on a thread.
        families = []
        for family in self._metrics.registry.collect():
            families.append(family)
            await asyncio.sleep(0)
        return await asyncio.to_thread(page, families, written, compressed=compressed)
