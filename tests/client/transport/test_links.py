"""Which of several servers is asked: in turn, but for those that were not reached a moment ago."""

import grpc
from hypothesis import given
from hypothesis import strategies as st
from resonnx._transport.links import Link, Links

from .test_retry import UNREACHED, Clock, Shed

THREE = "a:1,b:1,c:1"


def test_servers_take_turns_and_so_do_their_connections() -> None:
    links = Links(THREE)
    asked = [links.next() for _ in range(6)]
    assert sorted(link.server for link in asked) == [0, 0, 1, 1, 2, 2]
    assert {link.connection for link in asked} == {0}
    links.widen(16)
    assert {links.next() for _ in range(6)} == {
        Link(server, connection) for server in range(3) for connection in (0, 1)
    }
    links.widen(8)
    assert {links.next().connection for _ in range(6)} == {0, 1}, "connections are not given up"
    links.widen(10_000)
    assert {links.next().connection for _ in range(60)} == set(range(8))


def test_a_server_that_is_not_reached_rests_and_is_tried_by_one_call() -> None:
    clock = Clock()
    links = Links(THREE, clock)
    for _ in range(5):
        links.record(Link(1, 0), UNREACHED)
    assert {links.next().server for _ in range(30)} == {0, 2}
    clock.now += 1.01
    assert [links.next().server for _ in range(30)].count(1) == 1
    links.record(Link(1, 0), UNREACHED)
    clock.now += 1.01
    assert {links.next().server for _ in range(30)} == {0, 2}, "it rests for twice as long"
    clock.now += 1
    assert [links.next().server for _ in range(30)].count(1) == 1
    links.record(Link(1, 0), None)
    assert [links.next().server for _ in range(30)].count(1) == 10


def test_another_error_is_an_answer() -> None:
    links = Links(THREE)
    links.record(Link(1, 0), Shed("20", grpc.StatusCode.RESOURCE_EXHAUSTED))
    assert {links.next().server for _ in range(9)} == {0, 1, 2}


@given(ends=st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.floats(0, 40)), max_size=60))
def test_there_is_always_a_server_to_ask(ends: list[tuple[int, bool, float]]) -> None:
    """One that serves is preferred; where all rest, calls still go to one of them."""
    clock = Clock()
    links = Links(THREE, clock)
    rests: set[int] = set()
    for server, reached, passed in ends:
        links.record(Link(server, 0), None if reached else UNREACHED)
        (rests.discard if reached else rests.add)(server)
        if len(rests) < 3:
            asked = [links.next().server for _ in range(6)]
            assert [it for it in asked if it not in rests]
        else:
            assert links.next().server in rests
        clock.now += passed


def test_where_all_rest_each_is_tried_in_turn() -> None:
    """The first of them that is back is found, however long each rests."""
    links = Links(THREE, Clock())
    for server in range(3):
        links.record(Link(server, 0), UNREACHED)
    assert sorted(links.next().server for _ in range(6)) == [0, 0, 1, 1, 2, 2]


def test_clients_of_one_call_do_not_ask_the_same_server() -> None:
    assert {Links(THREE).next().server for _ in range(100)} == {0, 1, 2}


def test_one_address_is_not_divided() -> None:
    assert Links("ipv4:10.0.0.1:80,10.0.0.2:80").targets == ("ipv4:10.0.0.1:80,10.0.0.2:80",)
    assert Links("a:1").targets == ("a:1",)
