"""Connections by address: who gets no more, who loses how many, and which ones, on real sockets."""

import asyncio
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.observe.connections import Connections
from resonnx_server.rpc.connections.shares import ConnectionShares, refused, surplus
from resonnx_server.runtime.machine.source_filter import Network

from ....conftest import examples

ONE, OTHER = "127.0.0.2", "127.0.0.3"
MOST = 64
NUMBERS = st.lists(st.integers(1, 300), max_size=20)


def _held(numbers: list[int]) -> dict[Network, int]:
    return {IPv4Address(place): number for place, number in enumerate(numbers)}


@given(NUMBERS, st.integers(1, 600))
@examples(200)
def test_an_address_gets_more_while_it_has_less_than_seven_times_what_is_free(numbers: list[int], most: int) -> None:
    held, free = _held(numbers), max(0, most - sum(numbers))
    assert refused(held, most) == {network for network, n in held.items() if n >= max(1, 7 * free)}
    if sum(numbers) < most * 7 / 8:
        assert refused(held, most) == set()


def test_an_address_that_was_refused_gets_some_again_when_it_has_clearly_fewer() -> None:
    one, other = [*_held([0, 0])]

    def is_refused(number: int, before: set[Network]) -> bool:
        return one in refused({one: number, other: 1}, 64, before)

    assert [is_refused(number, set()) for number in (54, 55, 56)] == [False, False, True]
    assert [is_refused(number, {one}) for number in (52, 53, 56)] == [False, True, True]
    assert not refused({other: 1}, 64, {one})


def test_a_lone_address_gets_seven_eighths_and_another_seven_eighths_of_the_rest() -> None:
    def reached(addresses: int) -> dict[Network, int]:
        """Return the connections of addresses that open as many as they get, one after the other."""
        held = _held([0] * addresses)
        while more := held.keys() - refused(held, 800):
            held[min(more)] += 1
        return held

    assert [*reached(1).values()] == [700]
    assert [*reached(2).values()] == [700, 88]


def test_of_thousands_of_addresses_the_largest_are_refused() -> None:
    held = _held([*range(1, 2001)])
    assert refused(held, 100) == {*[*held][-256:]}


@given(NUMBERS, st.integers(1, 600))
@examples(200)
def test_others_find_room_unless_many_addresses_share_all(numbers: list[int], most: int) -> None:
    held = _held(numbers)
    lost = surplus(held, most)
    if sum(numbers) <= most - most // 16:
        assert lost == {}
        return
    left = {network: number - lost.get(network, 0) for network, number in held.items()}
    touched = {left[network] for network in lost}
    assert min(lost.values(), default=1) >= 1
    assert len(touched) <= 1, "those that lose some have equal numbers"
    level = max(touched, default=max(1, most // 8))
    assert level >= most // 8
    assert not touched or max(left.values()) == level
    goal = most - most // 8
    if level > max(1, most // 8):
        assert sum(left.values()) <= goal
        assert sum(min(number, level + 1) for number in numbers) > goal, "and no more than needed"
    elif sum(left.values()) > goal:
        assert max(left.values()) <= max(1, most // 8)


class Port:
    """A port of 64 connections of which this process has both ends."""

    def __init__(self, stack: ExitStack, host: str = "127.0.0.1") -> None:
        self._stack = stack
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = stack.enter_context(
            socket.create_server((host, 0), family=family, dualstack_ipv6=":" in host, backlog=MOST)
        )
        self._address = ("127.0.0.1", self._listening.getsockname()[1])
        self.counts = Connections()
        self.shares = ConnectionShares(self._address[1], MOST, self.counts)
        self.clients: dict[str, list[socket.socket]] = {}
        self._accepted: dict[str, list[socket.socket]] = {}

    def connect(self, source: str, number: int = 1, timeout_s: float = 10) -> None:
        """Open connections from an address."""
        for _ in range(number):
            client = self._stack.enter_context(socket.create_connection(self._address, timeout_s, (source, 0)))
            self._accepted.setdefault(source, []).append(self._stack.enter_context(self._listening.accept()[0]))
            self.clients.setdefault(source, []).append(client)

    def leave(self, source: str, number: int) -> None:
        """End connections of an address, as its client does."""
        for _ in range(number):
            self.clients[source].pop().close()
            self._accepted[source].pop().close()

    def ended(self, source: str) -> list[int]:
        """Return the places of an address's connections that the server has ended."""
        return [place for place, client in enumerate(self.clients[source]) if _is_ended(client)]


def _is_ended(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False


@pytest.fixture(params=["127.0.0.1", "::"])
def port(request: pytest.FixtureRequest) -> Iterator[Port]:
    if sys.platform != "linux":
        pytest.skip("filters of packets are Linux'")
    with ExitStack() as stack:
        yield Port(stack, request.param)


async def test_an_address_with_most_gets_no_more_until_it_has_fewer(
    port: Port, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    port.connect(ONE, 55)
    await port.shares.look()
    port.connect(ONE)
    await port.shares.look()
    assert port.counts.refused == 1
    port.leave(ONE, 1)
    await port.shares.look()
    assert port.counts.refused == 1
    with pytest.raises(TimeoutError):
        port.connect(ONE, timeout_s=0.1)
    port.connect(OTHER)
    (line,) = map(vars, caplog.records)
    assert (line["address"], line["connections"]) == (ONE, 56)
    assert port.counts.closed == 0
    port.leave(ONE, 10)
    await port.shares.look()
    assert port.counts.refused == 0
    port.connect(ONE)


async def test_one_that_was_faster_loses_those_that_are_silent_for_longest(port: Port) -> None:
    port.connect(OTHER, 1)
    port.connect(ONE, 63)
    # The system counts in milliseconds.
    await asyncio.sleep(0.02)
    spoke = (0, 5, 62)
    for place in spoke:
        port.clients[ONE][place].sendall(b"x")
    await port.shares.look()
    assert port.counts.closed == 8
    assert port.ended(OTHER) == []
    ended = port.ended(ONE)
    assert len(ended) == 8
    assert not set(ended) & set(spoke)


async def test_connections_of_other_ports_do_not_count(port: Port) -> None:
    port.connect(ONE, 50)
    with ExitStack() as stack:
        other = Port(stack)
        other.connect(ONE, 14)
        await port.shares.look()
    assert (port.counts.refused, port.counts.closed) == (0, 0)
