"""Puts all services on one gRPC port: Vision, the tensor protocol, health and reflection."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Self

import grpc
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from resonnx_proto.inference import grpc_service_pb2, grpc_service_pb2_grpc
from resonnx_proto.v1 import repository_pb2, repository_pb2_grpc, vision_pb2, vision_pb2_grpc

from resonnx_server.access.gate import Gate
from resonnx_server.access.policy import Policy
from resonnx_server.errors import ServerError
from resonnx_server.memory.budget import Budget
from resonnx_server.observe.connections import Connections
from resonnx_server.observe.tracing import Traces
from resonnx_server.protocol.unpacking import Unpacker
from resonnx_server.rpc.admission import Admission
from resonnx_server.rpc.boundary import rejection
from resonnx_server.rpc.comparisons import RepositoryServicer
from resonnx_server.rpc.connections.shares import ConnectionShares
from resonnx_server.rpc.connections.unclaimed_bytes import UnclaimedBytes
from resonnx_server.rpc.credentials import server_credentials
from resonnx_server.rpc.fronts.buffer import CALL_BYTES
from resonnx_server.rpc.fronts.choose import FrontName, FrontUnavailable, choose
from resonnx_server.rpc.fronts.front import Front, Options
from resonnx_server.rpc.fronts.intake import Intake
from resonnx_server.rpc.fronts.status import Rejected
from resonnx_server.rpc.health import OF_MODEL, HealthServicer
from resonnx_server.rpc.messages import HEADROOM_BYTES, BoundedMessages, Large, read_request
from resonnx_server.rpc.oip.servicer import InferenceServicer
from resonnx_server.rpc.reflection import add_reflection
from resonnx_server.rpc.vision.picture_request import read_picture_request
from resonnx_server.rpc.vision.servicer import VisionServicer
from resonnx_server.rpc.vision.video_request import read_video_request

_VISION: Final = vision_pb2.DESCRIPTOR.services_by_name["Vision"]
_INFERENCE: Final = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_REPOSITORY: Final = repository_pb2.DESCRIPTOR.services_by_name["Repository"]
SERVICES: Final = (_VISION.full_name, _INFERENCE.full_name)
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
# Clients may ping every 5 s; the ping after a delayed one comes sooner.
_LEAST_PING_INTERVAL_MS: Final = 2_500
_LOOKAHEAD_BYTES: Final = 1 << 16
_MOST_STREAMS: Final = 4096
_MOST_PENDING: Final = 16_384
_LEAST_PENDING: Final = 1024
_HANDSHAKE_MS: Final = 10_000
_SETTINGS_MS: Final = 5_000
_METADATA_BYTES: Final = 16_384
_ADMIN_CONNECTIONS: Final = 16
# Of gRPC's algorithms, as bits: identity and gzip, not deflate, whose messages cannot be told from others.
_ALGORITHMS: Final = 0b101
# Part of the requests' memory that health watches may hold: 1/8; and so many of them in any case.
_FOR_WATCHES: Final = 8
_LEAST_WATCHES: Final = 64
# gRPC's value for never.
_NEVER: Final = 2**31 - 1


def _large() -> dict[str, Large]:
    """Return the methods that take pictures or tensors, by path."""
    large = {
        f"/{SERVICES[1]}/{method.name}": Large(read_request, is_serialized=True)
        for method in _INFERENCE.methods
        if method.input_type is grpc_service_pb2.ModelInferRequest.DESCRIPTOR
    }
    for method in _VISION.methods:
        if any(field.message_type is vision_pb2.Image.DESCRIPTOR for field in method.input_type.fields):
            kind = GetMessageClass(method.input_type)
            large[f"/{SERVICES[0]}/{method.name}"] = Large(partial(read_picture_request, kind))
    large[f"/{SERVICES[0]}/ClassifyVideo"] = Large(read_video_request)
    return large


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of the connections of a port.

    Attributes:
        most: Connections at a time.
        max_idle_s: Seconds until a connection without calls is closed; 0 for never.
        max_age_s: Seconds until a connection takes no more calls; None for never.
    """

    most: int
    max_idle_s: float
    max_age_s: float | None = None


def _options(max_message_bytes: int, limits: ConnectionLimits, most_pending: int = _MOST_PENDING) -> Options:
    return [
        ("grpc.max_receive_message_length", max_message_bytes + HEADROOM_BYTES),
        ("grpc.max_send_message_length", max_message_bytes),
        # A second server on the port must fail, not take half of the connections.
        ("grpc.so_reuseport", 0),
        # Of a connection; its client queues further calls. gRPC counts a call until its objects are freed, shortly
        # after its answer, and refuses calls beyond the limit (RST_STREAM 7), which clients in C, C++ and Python do not
        # send again. A client that was held up for seconds must not reach it.
        ("grpc.max_concurrent_streams", _MOST_STREAMS),
        # Beyond it, gRPC ends any caller's calls with CANCELLED; by default beyond 1,000, which one client can reach.
        ("grpc.server.max_pending_requests", most_pending),
        ("grpc.server.max_pending_requests_hard_limit", 2 * most_pending),
        # Until a connection has become one of HTTP/2.
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        # Until a client acknowledges the settings. Before, gRPC allows 16 MiB of metadata a call, not _METADATA_BYTES.
        ("grpc.http2.settings_timeout", _SETTINGS_MS),
        # Beyond it, gRPC closes connections at once. Without descriptors it could not even do that.
        ("grpc.max_allowed_incoming_connections", limits.most),
        ("grpc.max_connection_idle_ms", int(limits.max_idle_s * 1000) or _NEVER),
        ("grpc.max_connection_age_ms", _NEVER if limits.max_age_s is None else int(limits.max_age_s * 1000)),
        # Otherwise gRPC counts every ping of a connection without calls as a fault, and closes it at the third.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _LEAST_PING_INTERVAL_MS),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Of a call, in bytes; calls with more are refused (RESOURCE_EXHAUSTED).
        ("grpc.max_metadata_size", _METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
        ("grpc.enable_channelz", 0),
        # Messages are handed over as they come: protocol/unpacking.py unpacks them within bounds, off gRPC's thread;
        # fronts/call.py sees by their first bytes which are packed.
        ("grpc.per_message_decompression", 0),
        ("grpc.compression_enabled_algorithms_bitset", _ALGORITHMS),
        # What a caller may send before a message is asked for: gRPC would buffer megabytes for a fast connection. 24
        # calls of 60 MB that nobody reads took 204 MB, and 3 MB with these.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", _LOOKAHEAD_BYTES),
    ]


class CannotListen(Exception):
    """A port cannot be had; the message is one line for the user."""

    @classmethod
    def on(cls, host: str, port: int, flag: str = "") -> Self:
        """Return the error of an address whose flags begin with `flag`. gRPC does not say why."""
        taken = f"the port (--{flag}port) is taken or not permitted"
        reason = f"{taken}, or this machine does not have the address (--{flag}host)"
        return cls(f"cannot listen on {host}:{port} (gRPC): {reason}")


class GrpcServer:
    """The gRPC server on its ports, and its health.

    Args:
        vision: The task API.
        inference: The tensor protocol.
        repository: Comparisons of versions.
        front: The gRPC front.
        max_message_bytes: Limit of a request and of a response.
        limits: Of its connections.
        budget: The memory of messages is charged to it.
        policy: Who may call what.
        max_receive_s: Time limit for receiving the request of a call, or the first message of a stream.
        max_stream_idle_s: Time limit for further messages of a stream, and for readers of answers; 0 for none.
        reflection: Serve reflection.
        counts: Counts connections that are closed or refused.
        traces: Traces of requests; None for none.

    Attributes:
        intake: Lets calls in.
        unclaimed: Bytes that connections have brought and that became no messages.
    """

    def __init__(
        self,
        vision: VisionServicer,
        inference: InferenceServicer,
        repository: RepositoryServicer,
        front: FrontName,
        max_message_bytes: int,
        limits: ConnectionLimits,
        budget: Budget,
        policy: Policy,
        max_receive_s: float = math.inf,
        max_stream_idle_s: float = 0,
        *,
        reflection: bool,
        counts: Connections | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._policy = policy
        self._has_reflection = reflection
        self._vision = vision
        self._inference = inference
        self._repository = repository
        self._front_name = front
        self._max_message_bytes = max_message_bytes
        self._limits = limits
        self._budget = budget
        self.intake = Intake(budget, self._refuse, max_receive_s, max_stream_idle_s or math.inf)
        self._health = HealthServicer(inference.models, max(_LEAST_WATCHES, budget.most // _FOR_WATCHES // CALL_BYTES))
        self._fronts: list[Front] = []
        self._counts = counts or Connections()
        self.unclaimed = UnclaimedBytes(self.intake.claimed, self.intake.receiving_peers, self._counts)
        self._traces = traces
        self._sharing: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen, with health NOT_SERVING, and return the port.

        Raises:
            CannotListen: The port is taken, or the front that was chosen does not work with the installed grpcio.
        """
        self.set_serving({}, ready=False)
        bound = await self._listen(self._policy.main_gate, self._limits, host, port, "")
        shares = ConnectionShares(bound, self._limits.most, self._counts)
        self._sharing = asyncio.create_task(shares.keep())
        return bound

    async def start_admin(self, host: str, port: int) -> int:
        """Serve the same and the admin methods on a port of their own, and return the port; errors as of `start`."""
        few = replace(self._limits, most=min(self._limits.most, _ADMIN_CONNECTIONS))
        return await self._listen(self._policy.admin_gate, few, host, port, "admin-")

    async def _listen(self, gate: Gate, limits: ConnectionLimits, host: str, port: int, flag: str) -> int:
        try:
            return await self._start_front(gate, limits, f"{bracketed(host)}:{port}")
        except FrontUnavailable as error:
            raise CannotListen(str(error)) from None
        except OSError:
            raise CannotListen.on(host, port, flag) from None

    async def _start_front(self, gate: Gate, limits: ConnectionLimits, address: str) -> int:
        rejected = self._inference.rejected
        policy = self._policy
        admission = Admission(
            gate, rejected, open_health=policy.open_health, has_certificates=policy.has_client_certificates
        )
        # Half of those that the budget could hold: they are not charged before they are accepted.
        most_pending = max(_LEAST_PENDING, min(_MOST_PENDING, self._budget.most // CALL_BYTES // 2))
        options = _options(self._max_message_bytes, limits, most_pending)
        front = await choose(self._front_name, options, rejected.unknown_method, admission, self.intake, self._traces)
        bounded = BoundedMessages(front, self._max_message_bytes, _large(), rejected, Unpacker(self._budget))
        vision_pb2_grpc.add_VisionServicer_to_server(self._vision, bounded)
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self._inference, bounded)
        repository_pb2_grpc.add_RepositoryServicer_to_server(self._repository, bounded)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, bounded)
        files = (vision_pb2.DESCRIPTOR, repository_pb2.DESCRIPTOR, grpc_service_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR)
        if self._has_reflection:
            add_reflection(bounded, (*SERVICES, _REPOSITORY.full_name, health.SERVICE_NAME), files)
        certificates = policy.certificates
        bound = front.add_port(address, None if certificates is None else server_credentials(certificates))
        await front.start()
        self.unclaimed.ports.add(bound)
        self._fronts.append(front)
        return bound

    def set_serving(self, models: Mapping[str, bool], ready: bool) -> None:
        """Set health: the server and its services by `ready`, each NAME, NAME:VERSION and NAME:LABEL by `models`."""
        statuses = dict.fromkeys(("", *SERVICES), _SERVING if ready else _NOT_SERVING)
        for model, serves in models.items():
            statuses[f"{SERVICES[0]}{OF_MODEL}{model}"] = _SERVING if serves else _NOT_SERVING
        self._health.set(statuses)

    def drain(self) -> None:
        """Set all health to NOT_SERVING; irreversible."""
        self._health.drain()

    async def vacate(self) -> None:
        """Take no more connections, ask their clients to leave when they have no call, and wait until they have.

        Calls of health and reflection do not count. Calls that come meanwhile are served.
        """
        await asyncio.gather(*(front.vacate(SERVICES) for front in self._fronts))

    async def answered(self) -> None:
        """Wait until the answers of the present calls are sent; calls of health and reflection do not count."""
        await asyncio.gather(*(front.answered(SERVICES) for front in self._fronts))

    async def stop(self, grace_s: float) -> None:
        """Accept no more calls, end the present ones, and drop answers that are not delivered within `grace_s`."""
        if self._sharing is not None:
            self._sharing.cancel()
        for front in self._fronts:
            front.end_calls(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
        await asyncio.gather(*(front.stop(grace_s) for front in self._fronts))

    def _refuse(self, error: ServerError) -> Rejected:
        """Count an error, and return its status; on any thread."""
        self._inference.rejected.count(error)
        return rejection(error)


def bracketed(host: str) -> str:
    """Return a host as it is written before `:PORT`: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host
