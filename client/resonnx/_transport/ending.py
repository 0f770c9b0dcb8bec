"""How an asyncio stream really ended, despite grpc/grpc#36066.

A write that fails because the server has ended the stream makes grpc.aio put its own INTERNAL in the
place of the server's status, just before or just after that arrives.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

import grpc

_MASK = "Internal error from Core"

# The server's status is on its way already where a write fails; a bound, should it never come.
_PATIENCE_S = 1.0


class Ending:
    """Keeps the server's status of one call, to be made right after the call."""

    def __init__(self, call: Any) -> None:
        self._status: asyncio.Future[grpc.aio.AioRpcError] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._keep)

    async def unmasked(self, error: grpc.RpcError) -> grpc.RpcError:
        """Give the server's status (of an OK one too) where `error` hides it, else `error`."""
        if error.details() != _MASK:
            return error
        try:
            return await asyncio.wait_for(self._status, _PATIENCE_S)
        except TimeoutError:
            return error

    def _keep(self, call: Any) -> None:
        # Called for each status that replaces another.
        details = _result(call.details())
        if details != _MASK and not self._status.done():
            code, trailers = _result(call.code()), _result(call.trailing_metadata())
            self._status.set_result(grpc.aio.AioRpcError(code, trailing_metadata=trailers, details=details))


def _result(coroutine: Coroutine[Any, Any, Any]) -> Any:
    # Of a call that has its status these never suspend, and later would be too late.
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("a call that is done made its caller wait")
