"""A queue that joins requests, as people write it with asyncio: a largest batch, a longest wait, threads that run."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Batches:
    """Joins items and runs them on threads. Starts with the event loop: `await start()`.

    Args:
        run: A list of items to a list of results, on a thread. PEER_BATCH is its greatest length, PEER_DELAY_MS how
            long the first item waits for others, PEER_RUNS how many runs there may be at a time.
    """

    def __init__(self, run: Callable[[list[Any]], list[Any]]) -> None:
        self._run = run
        self._largest = int(os.environ["PEER_BATCH"])
        self._delay_s = float(os.environ["PEER_DELAY_MS"]) / 1e3
        self._runs = int(os.environ["PEER_RUNS"])
        self._pool = ThreadPoolExecutor(self._runs)
        self._queue: asyncio.Queue[tuple[Any, asyncio.Future[Any]]] = asyncio.Queue()
        self._workers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to take items."""
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._runs)]

    async def result(self, item: Any) -> Any:
        """Wait for an item's result. Raises what the run of its batch raised."""
        future = asyncio.get_running_loop().create_future()
        await self._queue.put((item, future))
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            ends = loop.time() + self._delay_s
            while len(batch) < self._largest:
                # For requests that wait already, no timer is needed.
                if not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                    continue
                try:
                    batch.append(await asyncio.wait_for(self._queue.get(), ends - loop.time()))
                except TimeoutError:
                    break
            try:
                results = await loop.run_in_executor(self._pool, self._run, [item for item, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
