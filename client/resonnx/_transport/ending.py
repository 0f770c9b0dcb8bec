"""The server's status of an asyncio stream, despite grpc/grpc#36066.

If a write fails because the server has ended the stream, grpc.aio replaces the server's status by its own INTERNAL,
just before or just after the server's status arrives.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

import grpc

_MASK = "Internal error from Core"

# When a write fails, the server's status is already on its way; this bounds the wait if it never arrives.
_PATIENCE_S = 1.0


class Ending:
    """Keeps the server's status of a call; create it immediately after the call."""

    def __init__(self, call: Any) -> None:
        self._status: asyncio.Future[grpc.aio.AioRpcError] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._keep)

    async def unmasked(self, error: grpc.RpcError) -> grpc.RpcError:
        """Return the server's status, including OK, if `error` hides it, else `error`."""
        if error.details() != _MASK:
            return error
        try:
            return await asyncio.wait_for(self._status, _PATIENCE_S)
        except TimeoutError:
            return error

    def _keep(self, call: Any) -> None:
        # Called for each replaced status.
        details = _result(call.details())
        if details != _MASK and not self._status.done():
            code, trailers = _result(call.code()), _result(call.trailing_metadata())
            self._status.set_result(grpc.aio.AioRpcError(code, trailing_metadata=trailers, details=details))


def _result(coroutine: Coroutine[Any, Any, Any]) -> Any:
    # After a call's end these coroutines never suspend; awaiting them later would be too late.
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("the status of a finished call is not available")
