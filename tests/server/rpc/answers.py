"""Where the answers of a stream go, without a connection."""

import asyncio
from typing import Any

from resonnx_server.access.caller import unnamed


class Answers:
    """Where a stream's answers go; `reads` says whether anybody takes them."""

    caller = unnamed("ipv4:192.0.2.1:1")

    def __init__(self, *, reads: bool = True) -> None:
        self.got: list[Any] = []
        self.reads = reads
        self.unsent = 0

    def put(self, answer: Any) -> asyncio.Future[None] | None:
        self.got.append(answer)
        if self.reads:
            return None
        self.unsent += 1
        return asyncio.get_running_loop().create_future()

    def drop_unsent(self) -> None:
        self.unsent = 0

    def set_status(self, *_: Any) -> None:
        pass
