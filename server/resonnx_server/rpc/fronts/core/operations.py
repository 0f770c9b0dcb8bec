"""The part of gRPC's private cython module that core/ uses; the only place that imports it.

A batch of operations is started on a call with a tag. When all of them have ended, the completion queue returns an
event with that tag. One operation of each kind may be in progress. Sources: grpc/_server.py, and grpc/grpc.h in gRPC's
core.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # it has no annotations

from resonnx_server.rpc.fronts.call import Metadata
from resonnx_server.rpc.fronts.status import Trailers

# The core's call, an event of its queue, an operation: extension types without annotations.
CoreCall = Any
Event = Any
Operation = Any

# All classes and attributes that core/ uses.
_USED: Final = {
    "CompletionQueue": ("poll", "shutdown"),
    "CompletionType": ("queue_shutdown",),
    "Server": (
        "register_completion_queue",
        "add_http2_port",
        "start",
        "request_call",
        "shutdown",
        "cancel_all_calls",
        "destroy",
    ),
    "Call": ("start_server_batch", "peer", "cancel"),
    "auth_context": (),
    "RequestCallEvent": ("call", "call_details", "invocation_metadata", "success"),
    "ReceiveMessageOperation": ("message",),
    "ReceiveCloseOnServerOperation": ("cancelled",),
    "SendInitialMetadataOperation": (),
    "SendMessageOperation": (),
    "SendStatusFromServerOperation": (),
}
_NO_FLAGS: Final = 0
# Read once: an enum's `value` is computed.
_OK: Final = grpc.StatusCode.OK.value[0]
# A call without a deadline has the largest possible time, far beyond this.
_NO_DEADLINE_S: Final = 1e12


def missing() -> list[str]:
    """Return what the installed grpcio lacks of what is used, as Class.attribute."""
    return [
        f"{name}.{attribute}".rstrip(".")
        for name, attributes in _USED.items()
        for attribute in ("", *attributes)
        if not hasattr(getattr(cygrpc, name, None), attribute or "__name__")
    ]


class PendingOperations:
    """Counts the operations in progress. Thread-safe.

    gRPC ends the process if an operation is started on a closed queue.
    """

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Count an operation that is about to start."""
        with self._lock:
            self.count += 1

    def end(self) -> None:
        """Count an operation as ended, after its event was handled."""
        with self._lock:
            self.count -= 1

    def start(self, call: CoreCall, operations: tuple[Operation, ...], tag: Callable[[Event], None]) -> None:
        """Start a batch of operations on a call. Raises RuntimeError if gRPC refuses it."""
        self.begin()
        if error := call.start_server_batch(operations, tag):
            self.end()
            raise RuntimeError(f"gRPC refuses an operation: error {error}")


def new_queue() -> Any:
    """Return a completion queue."""
    return cygrpc.CompletionQueue()


def add_port(server: Any, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Listen on an address, without TLS if `credentials` is None, and return the port; 0 if it cannot be had."""
    core = () if credentials is None else (credentials._credentials,)  # type: ignore[attr-defined]
    port: int = server.add_http2_port(address.encode(), *core)
    return port


def is_shutdown(event: Event) -> bool:
    """Whether `event` is the queue's last."""
    return bool(event.completion_type == cygrpc.CompletionType.queue_shutdown)


def new_server(options: tuple[tuple[str, int | str], ...]) -> Any:
    """Return a server of the core that is not started."""
    return cygrpc.Server(options, False)


def deadline_s(event: Event) -> float | None:
    """Return the deadline of the call that `event` brought, by `time.monotonic()`; None for none."""
    # gRPC has it by the system clock, which may be set during the call.
    deadline: float = event.call_details.deadline
    return None if deadline > _NO_DEADLINE_S else time.monotonic() + deadline - time.time()


def peer(call: CoreCall) -> str:
    """Return gRPC's address of a call's client, such as "ipv4:127.0.0.1:41234"."""
    address: bytes = call.peer()
    return address.decode(errors="replace")


def tls(event: Event) -> Mapping[str, Iterable[bytes]]:
    """Return the properties of the connection of the call that `event` brought; none if it is not encrypted."""
    properties: Mapping[bytes, Iterable[bytes]] | None = cygrpc.auth_context(event.call)
    return {name.decode(): values for name, values in (properties or {}).items()}


def metadata(event: Event) -> Metadata:
    """Return the metadata of the call that `event` brought."""
    given: Metadata = event.invocation_metadata
    return given


def receive_message() -> Operation:
    """Return an operation that ends with the next message, or without one if none will come."""
    return cygrpc.ReceiveMessageOperation(_NO_FLAGS)


def received(event: Event) -> bytes | None:
    """Return the message that `receive_message` ended with."""
    message: bytes | None = event.batch_operations[0].message()
    return message


def receive_close() -> Operation:
    """Return an operation that ends with the call."""
    return cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS)


def is_cancelled(event: Event) -> bool:
    """Whether the call ended before its status was sent: its caller has gone, or its deadline has passed."""
    return bool(event.batch_operations[0].cancelled())


def cancel(call: CoreCall) -> None:
    """End a call at once: what is not sent is dropped, and its client sees CANCELLED."""
    call.cancel(grpc.StatusCode.CANCELLED.value[0], "answers are not read")


def send_headers() -> Operation:
    """Return the operation that must come before, or with, the first message or the status."""
    return cygrpc.SendInitialMetadataOperation((), _NO_FLAGS)


def send_message(message: bytes) -> Operation:
    """Return an operation that ends when `message` is written and there is room for another."""
    return cygrpc.SendMessageOperation(message, _NO_FLAGS)


def send_status(code: grpc.StatusCode, details: str, trailers: Trailers) -> Operation:
    """Return the operation that ends a call."""
    number = _OK if code is grpc.StatusCode.OK else code.value[0]
    return cygrpc.SendStatusFromServerOperation(trailers, number, details, _NO_FLAGS)
