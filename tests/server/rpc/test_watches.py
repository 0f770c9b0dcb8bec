"""Health watches are limited by connection, by caller and all together, and none is kept that has ended."""

import pytest
from resonnx_server.errors import RateLimited
from resonnx_server.rpc.watches import OF_CALLER, OF_CONNECTION, Watches


async def test_a_connection_has_a_limit() -> None:
    watches = Watches(1000)
    opened = [watches.begin("a", "1") for _ in range(OF_CONNECTION)]
    with pytest.raises(RateLimited, match=f"this connection has {OF_CONNECTION} health watches"):
        watches.begin("a", "1")
    watches.begin("a", "2")
    watches.end(opened[0])
    watches.end(opened[0])
    watches.begin("a", "1")


async def test_a_caller_has_a_limit_on_many_connections() -> None:
    watches = Watches(10_000)
    for number in range(OF_CALLER):
        watches.begin("a", f"{number}")
    with pytest.raises(RateLimited, match=f"this caller has {OF_CALLER} health watches"):
        watches.begin("a", "new")
    watches.begin("b", "new")


async def test_beyond_the_most_of_all_the_caller_with_the_most_loses_its_oldest() -> None:
    watches = Watches(6)
    many = [watches.begin("many", f"{number}") for number in range(5)]
    watches.begin("few", "a")
    assert len(watches) == 6
    watches.begin("few", "b")
    assert [watch.ended is not None for watch in many] == [True, False, False, False, False]
    assert many[0].changed.is_set()
    assert len(watches) == 6
    watches.begin("few", "c")
    assert len(watches) == 6
    with pytest.raises(RateLimited, match="the server has 6 health watches, its most"):
        watches.begin("few", "d")
    watches.begin("third", "e")
    assert len(watches) == 6


async def test_nothing_is_kept_of_watches_that_have_ended() -> None:
    watches = Watches(100)
    for watch in [watches.begin(f"{number}", f"{number}") for number in range(50)]:
        watches.end(watch)
    assert len(watches) == 0
    assert not watches._of
    assert not watches._of_connection
