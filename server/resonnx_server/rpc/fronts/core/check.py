"""The self-check of this front: a server of its own answers some calls over loopback, which takes milliseconds."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc

from resonnx_server.access.caller import Caller, unnamed
from resonnx_server.rpc.fronts.call import Metadata
from resonnx_server.rpc.fronts.core import operations as ops
from resonnx_server.rpc.fronts.core.server import CoreFront
from resonnx_server.rpc.fronts.status import Rejected

_SERVICE: Final = "resonnx.SelfCheck"
_LIMIT_S: Final = 10.0
_LAST_STOP_S: Final = 1.0
_MESSAGES: Final = [b"a", bytes(100_000), b""]
_REFUSAL: Final = (grpc.StatusCode.OUT_OF_RANGE, "refused", (("reason-bin", b"\x00\xff"),))
_CALLER: Final = "ip:127.0.0.1"
# Of the secure port, which needs no certificate: connections of this machine.
_SECURITY: Final = [b"local"]
_METADATA: Final = (("resonnx-check", "text"), ("resonnx-check-bin", b"\x00\xff"))
_NAMES: Final = [name for name, _ in _METADATA]
# Not through a proxy that the environment names.
_CLIENT_OPTIONS: Final = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]


class CheckFailed(Exception):
    """This front does not work with the installed grpcio."""


async def check(limit_s: float = _LIMIT_S) -> None:
    """Serve a unary call, a stream and a refusal, and stop during a call.

    Args:
        limit_s: Time limit in seconds.

    Raises:
        Exception: CheckFailed, or an error of gRPC's objects: this front does not work.
    """
    if missing := ops.missing():
        raise CheckFailed(f"grpc._cython.cygrpc has no {', '.join(missing)}")
    loop = asyncio.get_running_loop()
    fault: asyncio.Future[None] = loop.create_future()

    def report(message: str, error: Exception, caller: str) -> str:
        # On the queue's thread, perhaps after the check has been given up.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(fail, error)
        # Not logged: whoever runs the check gets the error.
        return ""

    def fail(error: Exception) -> None:
        if not fault.done():
            fault.set_exception(error)

    checked = _Checked(report, limit_s)
    work = asyncio.create_task(checked.run())
    try:
        await asyncio.wait({work, fault}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if fault.done():
            fault.result()
        if not work.done():
            raise CheckFailed(f"calls are not answered within {limit_s:g} s")
        work.result()
    finally:
        await checked.close(work)
        fault.cancel()


class _Checked:
    """A server, and the cancellation that a handler saw."""

    def __init__(self, report: Callable[[str, Exception, str], str], limit_s: float) -> None:
        self._limit_s = limit_s
        self._entered = asyncio.Event()
        self._seen: list[str] = []
        self._security: list[bytes] = []
        self._front = CoreFront([("grpc.so_reuseport", 0)], admit=self._admit, report=report)
        unary = grpc.unary_unary_rpc_method_handler
        handlers = {
            "Remaining": unary(self._remaining, bytes, bytes),
            "Refuse": unary(self._refuse, bytes, bytes),
            "Caller": unary(self._caller, bytes, bytes),
            "Forbidden": unary(self._hold, bytes, bytes),
            "Hold": unary(self._hold, bytes, bytes),
            "Cut": unary(self._cut, bytes, bytes),
            "Echo": grpc.stream_stream_rpc_method_handler(self._echo, bytes, bytes),
        }
        self._front.add_registered_method_handlers(_SERVICE, handlers)

    async def run(self) -> None:
        """Start the server, call it and stop it."""
        port = self._front.add_insecure_port("127.0.0.1:0")
        secure = self._front.add_port("127.0.0.1:0", grpc.local_server_credentials())
        await self._front.start()
        credentials = grpc.local_channel_credentials()
        with grpc.secure_channel(f"127.0.0.1:{secure}", credentials, options=_CLIENT_OPTIONS) as channel:
            await asyncio.to_thread(_unary(channel, "Remaining"), b"", timeout=self._limit_s)
        _expect("the security of a connection", self._security, _SECURITY)
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=_CLIENT_OPTIONS) as channel:
            await asyncio.to_thread(self._call, channel)
            held = _unary(channel, "Hold").future(b"", timeout=self._limit_s)
            await self._entered.wait()
            await self._front.stop(0)
            held.cancel()
        _expect("what handlers saw", self._seen, ["cancelled"])

    async def close(self, work: "asyncio.Task[None]") -> None:
        """Cancel the check and stop the server."""
        work.cancel()
        await asyncio.wait({work})
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._front.stop(0), _LAST_STOP_S)

    def _call(self, channel: grpc.Channel) -> None:
        """Make the calls, one after the other; not on the event loop, which answers them."""
        remaining = _unary(channel, "Remaining")(b"", timeout=self._limit_s)
        # gRPC sends deadlines rounded up.
        if not 0 < float(remaining) < 2 * self._limit_s:
            raise CheckFailed(f"a deadline of {self._limit_s:g} s is read as {float(remaining):g} s")
        caller = _unary(channel, "Caller")(b"", timeout=self._limit_s, metadata=_METADATA)
        _expect("a caller and its metadata", caller, repr((_CALLER, *_METADATA)).encode())
        stream: Any = channel.stream_stream(f"/{_SERVICE}/Echo")
        echo = stream(iter(_MESSAGES), timeout=self._limit_s)
        _expect("a stream's lengths", [*map(len, echo)], [*map(len, _MESSAGES)])
        for method in ("Refuse", "Forbidden"):
            error = _unary(channel, method).future(b"", timeout=self._limit_s).exception()
            status = error.code(), error.details(), tuple(map(tuple, error.trailing_metadata()))
            _expect("a refusal", status, _REFUSAL)

        cut = _unary(channel, "Cut").future(b"", timeout=self._limit_s).exception()
        _expect("a call that is cut off", cut.code(), grpc.StatusCode.CANCELLED)

    def _admit(self, path: str, peer: str, metadata: Metadata, tls: Callable[[], Any]) -> Caller:
        self._security = [*tls().get("transport_security_type", self._security)]
        if path == f"/{_SERVICE}/Forbidden":
            raise Rejected(*_REFUSAL)
        return unnamed(peer)

    async def _remaining(self, request: bytes, context: Any) -> bytes:
        return str(context.time_remaining()).encode()

    async def _caller(self, request: bytes, context: Any) -> bytes:
        return repr((context.caller.name, *(tuple(item) for item in context.metadata if item[0] in _NAMES))).encode()

    async def _refuse(self, request: bytes, context: Any) -> None:
        context.set_status(*_REFUSAL)

    async def _cut(self, request: bytes, context: Any) -> bytes:
        context.cut()
        return b""

    async def _echo(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def _hold(self, request: bytes, context: Any) -> None:
        self._entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self._seen.append("cancelled")
            raise


def _unary(channel: grpc.Channel, name: str) -> Any:
    return channel.unary_unary(f"/{_SERVICE}/{name}")


def _expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise CheckFailed(f"{what}: {found!r} instead of {wanted!r}")
