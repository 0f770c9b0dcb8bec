"""A listening socket that takes no connections from some networks, on this machine's addresses."""

import socket
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Network

import pytest
from resonnx_server.runtime.machine.source_filter import MOST_NETWORKS, Network, drop_from

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="filters of packets are Linux'")

OTHERS: list[Network] = [IPv4Address(0x0A000000 + number) for number in range(MOST_NETWORKS - 2)]


@pytest.fixture(params=[("127.0.0.1", False), ("::", True)], ids=["IPv4", "both"])
def listening(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    host, is_dual = request.param
    family = socket.AF_INET6 if is_dual else socket.AF_INET
    with socket.create_server((host, 0), family=family, dualstack_ipv6=is_dual) as made:
        yield made


def _reaches(listening: socket.socket, source: str) -> bool:
    address = ("::1" if ":" in source else "127.0.0.1", listening.getsockname()[1])
    try:
        with socket.create_connection(address, 0.1, (source, 0)):
            return True
    except TimeoutError:
        return False


def test_addresses_of_a_filter_reach_nothing_and_all_others_do(listening: socket.socket) -> None:
    descriptor, blocked = listening.fileno(), IPv4Address("127.0.0.2")
    for networks in ([blocked], [*OTHERS, blocked], [blocked, IPv6Network("2001:db8::/64")]):
        assert drop_from(descriptor, networks)
        assert not _reaches(listening, "127.0.0.2")
        assert _reaches(listening, "127.0.0.3")
    assert drop_from(descriptor, OTHERS)
    assert _reaches(listening, "127.0.0.2")
    for _ in range(2):
        assert drop_from(descriptor, [])
        assert _reaches(listening, "127.0.0.2")


def test_networks_of_ipv6_are_dropped_by_their_first_64_bits() -> None:
    try:
        listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        reaches = _reaches(listening, "::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listening:
        assert reaches
        others = [IPv6Network("2001:db8::/64"), IPv6Network("0:0:0:1::/64"), IPv6Network("0:1::/64")]
        assert drop_from(listening.fileno(), others)
        assert _reaches(listening, "::1")
        assert drop_from(listening.fileno(), [*OTHERS, *others[:1], IPv6Network("::/64")])
        assert not _reaches(listening, "::1")
        assert _reaches(listening, "127.0.0.1")


def test_what_is_no_socket_cannot_be_filtered() -> None:
    with open("/dev/null") as file:
        assert not drop_from(file.fileno(), [IPv4Address("127.0.0.2")])
