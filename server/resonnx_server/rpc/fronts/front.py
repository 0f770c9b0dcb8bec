"""The interface of a gRPC server that both fronts implement."""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

import grpc

from resonnx_server.access.caller import Caller, unnamed
from resonnx_server.rpc.fronts.active import ActiveCalls, CallSoon
from resonnx_server.rpc.fronts.call import Handler, Metadata
from resonnx_server.rpc.fronts.hanging_up import hang_up
from resonnx_server.rpc.fronts.status import Rejected
from resonnx_server.rpc.fronts.vacating import Vacating

# One with a traceback for each header that is not UTF-8 would fill the disk, and tell keys.
logging.getLogger("grpc._cython.cygrpc").addFilter(lambda record: not str(record.msg).startswith("Invalid encoding"))

Options = list[tuple[str, int]]
OnUnknown = Callable[[], object]
# Returns the caller of a call, or raises Rejected, by the method's path, gRPC's address of the client, the metadata,
# and a function that returns TLS's properties of the connection. Called on any thread, before a request is received.
Admit = Callable[[str, str, Metadata, Callable[[], Mapping[str, Iterable[bytes]]]], Caller]


def admit_all(path: str, peer: str, metadata: Metadata, tls: object) -> Caller:
    """Admit every call."""
    return unnamed(peer)


def _refuse_all(path: str, peer: str, metadata: Metadata, tls: object) -> NoReturn:
    raise Rejected(grpc.StatusCode.UNAVAILABLE, "the server is shutting down", ())


class Front(ABC):
    """Serves handlers of asyncio functions, as generated `add_…Servicer_to_server` functions register them.

    Constructors take gRPC's channel arguments, a function that is called on the event loop for each call of an unknown
    method, and one that admits calls.
    """

    def __init__(self, call_soon: CallSoon, admit: Admit) -> None:
        self._admit = admit
        self._handlers: dict[str, Handler] = {}
        self._active = ActiveCalls(call_soon)
        # Whether they use TLS.
        self._ports: dict[int, bool] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:  # noqa: B027 - there is nothing to do
        """Do nothing: generated code registers the same methods one by one as well."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Serve the methods of a service: unary ones, and those that answer with a stream."""
        for name, handler in handlers.items():
            if handler.request_streaming and not handler.response_streaming:
                raise NotImplementedError(f"{service}/{name}: a stream of requests with one answer")
            self._handlers[f"/{service}/{name}"] = handler

    def add_insecure_port(self, address: str) -> int:
        """Listen on `address` once started, and return the port. Raises OSError if it cannot be had."""
        return self.add_port(address, None)

    def add_port(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """Listen on `address` once started, with TLS if there are credentials, and return the port.

        Raises:
            OSError: The port cannot be had.
        """
        port = self._bind(address, credentials)
        self._ports[port] = credentials is not None
        return port

    @abstractmethod
    def _bind(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """Do what `add_port` does."""

    @abstractmethod
    async def start(self) -> None:
        """Accept calls."""

    async def vacate(self, services: Iterable[str]) -> None:
        """Take no more connections, ask their clients to leave when they have no call of `services`, and wait for it.

        Calls that come meanwhile are served.
        """
        handlers = self._handlers_of(services)
        await Vacating(self._ports, lambda: self._active.peers(handlers)).run()

    async def answered(self, services: Iterable[str]) -> None:
        """Wait until the present calls of `services` have ended with all answers sent, or their callers have gone."""
        await self._active.wait(self._handlers_of(services))

    def end_calls(self, code: grpc.StatusCode, details: str) -> None:
        """Cancel all handlers and end their calls with a status."""
        self._active.end(code, details)

    async def stop(self, grace_s: float) -> None:
        """Accept no more calls, wait `grace_s` for those in progress, then end all connections. Safe to call again.

        Later calls, and those that are not over, end with UNAVAILABLE.
        """
        self._admit = _refuse_all
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._active.wait(self._handlers.values()), grace_s)
        await hang_up(self._ports)
        await self._shut_down()

    def _handlers_of(self, services: Iterable[str]) -> list[Handler]:
        paths = tuple(f"/{service}/" for service in services)
        return [handler for path, handler in self._handlers.items() if path.startswith(paths)]

    @abstractmethod
    async def _shut_down(self) -> None:
        """Accept no more calls, cancel those in progress, and wait until their handlers have ended."""
