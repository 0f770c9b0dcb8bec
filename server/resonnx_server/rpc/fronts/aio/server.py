"""The server, and how its handlers are given to grpc.aio."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

import grpc

from resonnx_server.access.caller import Caller
from resonnx_server.rpc.fronts.aio.call import AioCall, AioStreamCall, Context, start_task
from resonnx_server.rpc.fronts.call import Handler
from resonnx_server.rpc.fronts.front import Admit, Front, OnUnknown, Options, admit_all
from resonnx_server.rpc.fronts.intake import Intake
from resonnx_server.rpc.fronts.status import Rejected

_log = logging.getLogger(__name__)

# Interval of the check for a failure of grpc.aio, and the grace period of its calls after one.
_WATCH_S: Final = 1.0
_FAILED_GRACE_S: Final = 30.0


class AioFront(Front):
    """The front on grpc.aio.

    Args:
        options: gRPC's channel arguments.
        on_unknown: Called on the event loop for each call of an unknown method.
        admit: Admits calls.
        intake: The memory budget; None for none.
    """

    def __init__(
        self,
        options: Options,
        on_unknown: OnUnknown = lambda: None,
        admit: Admit = admit_all,
        intake: Intake | None = None,
    ) -> None:
        super().__init__(lambda act, value: act(value), admit)
        self._options = options
        self._intake = intake or Intake()
        # Served by one generic handler: grpc.aio waits for the next call of each registered method by itself.
        self._methods = _Methods(on_unknown)
        self._address = ""
        self._credentials: grpc.ServerCredentials | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = self._new_server()
        # Those that have failed, until their last calls have ended.
        self._failed: list[grpc.aio.Server] = []
        self._watcher: asyncio.Task[None] | None = None

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Serve the methods of a service: unary ones, and those that answer with a stream."""
        super().add_registered_method_handlers(service, handlers)
        for name, handler in handlers.items():
            self._methods.by_path[f"/{service}/{name}"] = self._adapted(f"/{service}/{name}", handler)

    def _bind(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        self._credentials = credentials
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}") from error
        self._address = f"{address.rpartition(':')[0]}:{port}"
        return port

    async def start(self) -> None:
        """Accept calls."""
        await self._server.start()
        self._watcher = asyncio.create_task(self._watch())
        self._watcher.add_done_callback(_log_failure)

    async def _shut_down(self) -> None:
        """Accept no more calls, cancel those in progress, and wait until their handlers have ended."""
        if self._watcher is not None:
            self._watcher.cancel()
        await asyncio.gather(*(server.stop(0) for server in (self._server, *self._failed)))
        # Handlers of cancelled calls have not seen it yet.
        await self._active.wait(self._handlers.values())
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _new_server(self) -> grpc.aio.Server:
        return grpc.aio.server(handlers=[self._methods], options=self._options)

    async def _watch(self) -> None:
        """Start grpc.aio again when it fails: that of grpcio 1.85 does so at a path that is not UTF-8."""
        while True:
            try:
                # False where it has been stopped.
                if not await self._server.wait_for_termination(_WATCH_S):
                    return
            except Exception as error:
                _log.error("grpc.aio has failed and is started again", exc_info=error)
                self._failed.append(self._server)
                start_task(self._end_failed(self._server), self._tasks)
                self._server = self._new_server()
                await self._bind_again()
                await self._server.start()

    async def _end_failed(self, server: grpc.aio.Server) -> None:
        """Let the calls of a failed server end, and drop it."""
        try:
            await server.stop(_FAILED_GRACE_S)
        finally:
            self._failed.remove(server)

    async def _bind_again(self) -> None:
        """Listen where the failed server did."""
        is_logged = False
        while True:
            try:
                self.add_port(self._address, self._credentials)
            except OSError as error:
                if not is_logged:
                    _log.error("grpc.aio cannot listen again yet", exc_info=error)
                is_logged = True
                await asyncio.sleep(_WATCH_S)
            else:
                return

    def _adapted(self, path: str, handler: Handler) -> Handler:
        """Return a handler for grpc.aio, of serialized messages."""

        async def unary(message: bytes, context: Context) -> bytes | None:
            caller, ending = self._admitted(path, context)
            if caller is None:
                del context, message
                await ending
                return None
            call = AioCall(handler, context, caller, self._intake, path)
            answer = await self._served(call, message)
            if answer is None:
                ending = context.abort(call.code, call.details, call.trailers)
                # What it raises is kept in the context: with them in this frame, neither would ever be freed.
                del call, context, message
                await ending
            return answer

        async def stream(requests: Any, context: Context) -> None:
            caller, ending = self._admitted(path, context)
            if caller is None:
                del context, requests
                await ending
                return
            call = AioStreamCall(handler, context, caller, self._intake, self._tasks, path)
            await self._served(call, None if handler.request_streaming else requests)

        if not handler.response_streaming:
            return grpc.unary_unary_rpc_method_handler(unary)
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(stream)
        return grpc.unary_stream_rpc_method_handler(stream)

    def _admitted(self, path: str, context: Context) -> tuple[Caller | None, Any]:
        """Return the caller, or None and what ends the call.

        As in `unary`, whoever awaits that must not hold the context meanwhile.
        """
        try:
            return self._admit(path, context.peer(), context.invocation_metadata(), context.auth_context), None
        except Rejected as rejected:
            return None, context.abort(*rejected.status)

    async def _served(self, call: "AioCall", message: bytes | None) -> bytes | None:
        # It ends when the status is sent or the caller has gone.
        task = asyncio.current_task()
        assert task is not None
        self._active.add(call)
        task.add_done_callback(lambda _: self._active.remove(call))
        return await call.run(task, message)


def _log_failure(watcher: "asyncio.Task[None]") -> None:
    if not watcher.cancelled() and (error := watcher.exception()) is not None:
        _log.error("grpc.aio could not be started again", exc_info=error)


class _Methods(grpc.GenericRpcHandler):
    """Finds handlers for grpc.aio."""

    def __init__(self, on_unknown: OnUnknown) -> None:
        self.by_path: dict[str, Handler] = {}
        self._on_unknown = on_unknown

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """Return the handler of a method; None for an unknown one, which grpc.aio answers itself."""
        handler = self.by_path.get(handler_call_details.method)
        if handler is None:
            self._on_unknown()
        return handler
