"""Connections that clients keep alive by pings stay, as long as the settings say."""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import grpc
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc


class _Connection:
    """A channel that pings every few seconds, and what has become of its connection since it was ready."""

    def __init__(self, target: str, number: int, ping_s: float = 5) -> None:
        options = {
            "grpc.keepalive_time_ms": int(ping_s * 1000),
            "grpc.keepalive_timeout_ms": 5_000,
            "grpc.keepalive_permit_without_calls": 1,
            "grpc.http2.max_pings_without_data": 0,
            # A connection of its own.
            "grpc.use_local_subchannel_pool": 1,
            "number": number,
        }
        self.channel = grpc.insecure_channel(target, options=list(options.items()))
        self.is_live()
        self.left: queue.Queue[grpc.ChannelConnectivity] = queue.Queue()
        # It tells first what the state is now.
        told = threading.Event()

        def note(state: grpc.ChannelConnectivity) -> None:
            if state is not grpc.ChannelConnectivity.READY:
                self.left.put(state)
            told.set()

        self.channel.subscribe(note)
        assert told.wait(20)

    def is_live(self) -> bool:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        return stub.ServerLive(pb.ServerLiveRequest(), timeout=20).live

    def leaves_within(self, seconds: float) -> bool:
        """Tell whether the server closes it in that time."""
        try:
            self.left.get(timeout=seconds)
        except queue.Empty:
            return False
        return True


@contextmanager
def _connections(target: str, count: int) -> Iterator[list[_Connection]]:
    with ExitStack() as stack:
        connections = [_Connection(target, number) for number in range(count)]
        for connection in connections:
            stack.callback(connection.channel.close)
        yield connections


@dataclass
class _Pinging:
    """Connections of which the first has a call, and when they began to ping in seconds."""

    connections: list[_Connection]
    watch: grpc.Call
    began: float


@pytest.fixture(scope="module", autouse=True)
def pinging(demo_server) -> Iterator[_Pinging]:
    """They ping while other tests of the module run."""
    with _connections(demo_server.grpc, 4) as connections:
        watch = health_pb2_grpc.HealthStub(connections[0].channel).Watch(health_pb2.HealthCheckRequest(), timeout=300)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        yield _Pinging(connections, watch, time.monotonic())
        watch.cancel()


@pytest.mark.slow
def test_they_stay_for_minutes(demo_server) -> None:
    with _connections(demo_server.grpc, 8) as connections:
        assert not connections[0].leaves_within(100)
        assert [connection.leaves_within(0.01) for connection in connections] == [False] * 8


def test_who_pings_much_more_often_is_sent_away(demo_server) -> None:
    """Pings cost the server something and bring it nothing: there is a least interval."""
    # Clients of gRPC do not ping more often than that.
    connection = _Connection(demo_server.grpc, 0, ping_s=1)
    with connection.channel:
        assert connection.leaves_within(25)
        assert connection.is_live(), "and may come back"


def test_idle_connections_end_when_the_settings_say_so_and_come_back(start_server, demo_repository) -> None:
    with (
        start_server(demo_repository, "--max-connection-idle-s", "2") as server,
        _connections(server.grpc, 2) as (idle, streaming),
    ):
        watch = health_pb2_grpc.HealthStub(streaming.channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        next(watch)
        # At twice the time at the latest, by gRPC's own timers.
        assert idle.leaves_within(20)
        assert not streaming.leaves_within(0.01), "a call is under way on it"
        # The next call connects again by itself.
        assert idle.is_live()
        watch.cancel()
        with triton.InferenceServerClient(server.grpc) as client:
            assert client.is_server_live()


def test_pinging_connections_stay(pinging: _Pinging) -> None:
    """Idle ones, and one with a stream: three pings each. By default gRPC's server ends a connection at the third."""
    connections = pinging.connections
    assert not connections[1].leaves_within(max(0.01, pinging.began + 17 - time.monotonic()))
    assert [connection.leaves_within(0.01) for connection in connections] == [False] * 4
    assert all(connection.is_live() for connection in connections)
    assert pinging.watch.is_active()
