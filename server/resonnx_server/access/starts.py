"""Begins the handlers of received calls: callers in turn, a few in each turn of the event loop."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

# Handlers that begin in one turn of the event loop at most: about a millisecond of their work.
_AT_ONCE: Final = 8


class Starts:
    """Calls, or requests over HTTP, that were received and whose handler has not begun. Event loop only.

    A flood of one caller arrives in hundreds; in their order, another's call would wait for all of them.

    Args:
        report: Takes a message for the log and an error of a beginning.
    """

    def __init__(self, report: Callable[[str, Exception], object]) -> None:
        self._report = report
        # By caller, those whose turn is next first.
        self._lines: OrderedDict[str, deque[Callable[[], None]]] = OrderedDict()
        self._left = _AT_ONCE
        self._is_due = False

    def add(self, caller: str, begin: Callable[[], None]) -> None:
        """Call `begin`, at once if no others wait and few have begun in this turn of the loop."""
        if self._left and not self._lines:
            self._left -= 1
            if not self._left:
                self._await_turn()
            begin()
        elif caller in self._lines:
            self._lines[caller].append(begin)
        else:
            self._lines[caller] = deque([begin])

    async def turn(self, caller: str) -> None:
        """Wait until work of a caller may begin."""
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def begin() -> None:
            # Whoever waits may be cancelled.
            if not begun.done():
                begun.set_result(None)

        self.add(caller, begin)
        if not begun.done():
            await begun

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def _await_turn(self) -> None:
        # Not from the first that begins on: most turns have few, and the loop's own work for one takes longer.
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._is_due, self._left = False, _AT_ONCE
        lines = self._lines
        while lines and self._left:
            self._left -= 1
            caller, line = lines.popitem(last=False)
            begin = line.popleft()
            if line:
                lines[caller] = line
            try:
                begin()
            except Exception as error:
                self._report("a call could not be served", error)
        if not self._left:
            self._await_turn()
