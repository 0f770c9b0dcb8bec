"""The requests under way: those whose answers are not all sent."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from resonnx_server.errors import Unavailable


class ActiveRequests:
    """Requests from the end of their head until their answer is sent. Event loop only."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        # The tasks that were cancelled because the server stops.
        self._ended: set[asyncio.Task[Any]] = set()
        self._changed = asyncio.Event()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the current task's request until the block ends.

        Raises:
            Unavailable: The request was ended because the server stops.
        """
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)
            self._changed.set()

    def was_ended(self) -> Unavailable | None:
        """Return why the current task was cancelled, once, if it was because the server stops."""
        task = asyncio.current_task()
        assert task is not None
        if task not in self._ended:
            return None
        self._ended.discard(task)
        task.uncancel()
        return Unavailable("the server is shutting down")

    async def answered(self) -> None:
        """Wait until the answers of the present requests are sent; later ones are not waited for."""
        present = set(self._tasks)
        while present & self._tasks:
            self._changed.clear()
            await self._changed.wait()

    def end(self) -> None:
        """Cancel all requests: they are answered that the server stops."""
        for task in self._tasks - self._ended:
            self._ended.add(task)
            task.cancel()
