"""An address that opens connections in place of all that are closed: row "one address that takes all connections"."""

import json
import re
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from ...conftest import RunningServer, StartServer
from ...server import bare_graphs
from ..guarded import eventually

SHARED = 64
# Both are of this machine.
ONE, ANOTHER = "127.0.0.2", "127.0.0.1"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)


def _opened(address: str, source: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    # Not longer: an attacker does not wait for an answer.
    return socket.create_connection((host, int(port)), 0.1, (source, 0))


def _is_live(channel: grpc.Channel) -> bool:
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    return stub.ServerLive(pb.ServerLiveRequest(), timeout=20, wait_for_ready=True).live


class _Occupant:
    """Opens connections from an address in place of all that are closed, as fast as it can."""

    def __init__(self, address: str, source: str) -> None:
        self._address, self._source = address, source
        self._over = threading.Event()
        self.opened = 0
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]

    def __enter__(self) -> "_Occupant":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        held: list[socket.socket] = []
        while not self._over.is_set():
            held = [each for each in held if not _is_closed_now(each)]
            with suppress(OSError):
                while len(held) < SHARED // 2 and not self._over.is_set():
                    held.append(self._open())
            time.sleep(0.01)
        for each in held:
            each.close()

    def _open(self) -> socket.socket:
        connection = _opened(self._address, self._source)
        with suppress(OSError):
            connection.sendall(PREFACE)
        connection.setblocking(False)
        self.opened += 1
        return connection


def _is_closed_now(connection: socket.socket) -> bool:
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    connection.close()
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="filters of packets are Linux'")
@pytest.mark.parametrize("front", ["core", pytest.param("aio", marks=pytest.mark.slow)])
def test_an_address_keeps_nobody_out(front: str, start_server: StartServer, tmp_path: Path) -> None:
    (tmp_path / "doubling/1").mkdir(parents=True)
    (tmp_path / "doubling/1/model.onnx").write_bytes(bare_graphs.doubling())
    options = [("grpc.use_local_subchannel_pool", 1)]
    with (
        start_server(tmp_path, "--grpc-front", front, "--max-connections", str(SHARED)) as server,
        grpc.insecure_channel(server.grpc, options) as old,
    ):
        assert server.grpc.startswith(f"{ANOTHER}:")
        assert _is_live(old)
        states: list[grpc.ChannelConnectivity] = []
        old.subscribe(states.append)
        with _Occupant(server.grpc, ONE) as occupant:
            eventually(lambda: _metric(server, "resonnx_refused_addresses") == 1)
            began = time.monotonic()
            for _ in range(3):
                with grpc.insecure_channel(server.grpc, options) as new:
                    assert _is_live(new)
            print(f"three others in {time.monotonic() - began:.2f} s; it opened {occupant.opened}")
            assert _is_live(old)
            assert _metric(server, "resonnx_refused_addresses") == 1
        lost = {grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.IDLE} & {*states[1:]}
        assert not lost, "an address with one connection keeps it"
        assert _metric(server, "resonnx_closed_connections_total") >= SHARED // 16
        lines = [json.loads(line) for line in server.log.read_text().splitlines() if "has most connections" in line]
        assert {line["address"] for line in lines} == {ONE}
        eventually(lambda: _metric(server, "resonnx_refused_addresses") == 0)
        _opened(server.grpc, ONE).close()


def _metric(server: RunningServer, name: str) -> float:
    (value,) = re.findall(rf"^{name} (\S+)", server.get("/metrics")[1], re.MULTILINE)
    return float(value)
