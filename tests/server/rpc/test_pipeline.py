"""Many requests on one stream: answers in order or as they are done, and bounds."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.errors import ServerError, SlowReader
from resonnx_server.rpc.pipeline import pipeline

from ..waiting import until
from .answers import Answers


@pytest.mark.parametrize("in_order", [False, True])
async def test_a_stream_does_not_end_well_without_an_answer(in_order: bool) -> None:
    """What one request waits for may be cancelled by others than its caller; it had no answer, nor those behind it."""

    async def requests() -> AsyncIterator[int]:
        for number in range(5):
            yield number

    async def answer(request: int, tell) -> int:
        await asyncio.sleep(0)
        if request == 2:
            raise asyncio.CancelledError
        return request

    with pytest.raises(ServerError, match="cancelled"):
        await pipeline(requests(), answer, Answers(), asyncio.Event(), in_order=lambda _: in_order)


async def test_a_slow_reader_ends_its_own_call_and_holds_up_nobody() -> None:
    told = 0
    cancelled = asyncio.Event()

    async def requests() -> AsyncIterator[int]:
        yield 0

    async def answer(request: int, tell) -> int:
        nonlocal told
        try:
            while True:
                tell(told)
                told += 1
                await asyncio.sleep(0)
        finally:
            cancelled.set()

    answers = Answers(reads=False)
    with pytest.raises(SlowReader):
        await asyncio.wait_for(pipeline(requests(), answer, answers, asyncio.Event(), unread=8), 10)
    # Whoever makes the parts is stopped without the reader's help.
    assert cancelled.is_set()
    assert told < 20
    assert answers.unsent == 0, "or the status would wait behind them"


async def test_a_reader_who_keeps_up_gets_every_part() -> None:
    async def requests() -> AsyncIterator[int]:
        for i in range(5):
            yield i

    async def answer(request: int, tell) -> str:
        for part in range(30):
            tell(f"{request}.{part}")
            await asyncio.sleep(0)
        return f"{request} done"

    answers = Answers()
    await pipeline(requests(), answer, answers, asyncio.Event(), unread=200)
    for i in range(5):
        assert [x for x in answers.got if x.startswith(f"{i}")] == [*(f"{i}.{n}" for n in range(30)), f"{i} done"]


async def test_no_more_is_read_than_finds_room() -> None:
    """Nobody reads: requests under way and answers without room are bounded together."""
    read = 0

    async def requests() -> AsyncIterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    async def answer(request: int, tell) -> int:
        return request

    answers = Answers(reads=False)
    call = asyncio.ensure_future(pipeline(requests(), answer, answers, asyncio.Event(), in_flight=4))
    await until(lambda: len(answers.got) == 4 and read == 5)
    # Nothing here waits for anything but the loop: turns enough for many more, if there were room.
    for _ in range(1000):
        await asyncio.sleep(0)
    assert read == 5, "four without room, one that waits for it"
    assert len(answers.got) == 4
    call.cancel()
    await asyncio.wait([call])


async def _numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 11)), min_size=1, max_size=12), st.integers(1, 12))
async def test_answers_in_order_wait_for_each_other_and_for_nobody_else(
    requests: list[tuple[bool, int]], in_flight: int
) -> None:
    """Whatever ends first; who is not in order neither waits nor is waited for."""
    exempt = {number for number, (is_exempt, _) in enumerate(requests) if is_exempt}
    under_way: dict[int, asyncio.Future[None]] = {}

    async def answer(request: int, tell) -> str:
        end = under_way[request] = asyncio.get_running_loop().create_future()
        if request in exempt:
            tell(f"{request} part")
        await end
        return f"{request} done"

    answers = Answers()
    call = asyncio.ensure_future(
        pipeline(
            _numbers(len(requests)), answer, answers, asyncio.Event(), in_flight, in_order=lambda r: r not in exempt
        )
    )
    ended: set[int] = set()
    ordered = [number for number in range(len(requests)) if number not in exempt]
    for _, which in requests:
        await _settled()
        candidates = sorted(under_way)
        number = candidates[which % len(candidates)]
        under_way.pop(number).set_result(None)
        ended.add(number)
        await _settled()
        due = [number for place, number in enumerate(ordered) if ended.issuperset(ordered[: place + 1])]
        finals = [int(part.split()[0]) for part in answers.got if part.endswith("done")]
        assert set(finals) == {*due, *(ended & exempt)}
        assert [number for number in finals if number not in exempt] == due
    await asyncio.wait_for(call, 10)
    for number in exempt:
        assert [part for part in answers.got if part.startswith(f"{number} ")] == [f"{number} part", f"{number} done"]


async def _settled() -> None:
    """Turns of the loop enough for all that waits for nothing else."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_answers_that_wait_for_a_slow_one_are_bounded() -> None:
    """In number with those under way, and by their bytes: no more is read, until the slow one is there."""
    read = 0
    slow = asyncio.Event()

    async def requests() -> AsyncIterator[int]:
        nonlocal read
        while read < 100:
            read += 1
            yield read - 1
            # Answers that wait for nothing are there before the next request.
            for _ in range(5):
                await asyncio.sleep(0)

    async def answer(request: int, tell) -> bytes:
        if request == 0:
            await slow.wait()
        return bytes(100)

    for in_flight, held_bytes, most_read in ((10, 1 << 20, 11), (64, 500, 7)):
        read = 0
        slow.clear()
        answers = Answers()
        call = asyncio.ensure_future(
            pipeline(
                requests(),
                answer,
                answers,
                asyncio.Event(),
                in_flight,
                in_order=lambda _: True,
                size_of=len,
                held_bytes=held_bytes,
            )
        )
        await until(lambda: read == most_read)  # noqa: B023 - called before the next turn
        for _ in range(1000):
            await asyncio.sleep(0)
        assert read == most_read, "one more may wait for room"
        assert answers.got == []
        slow.set()
        await asyncio.wait_for(call, 10)
        assert (read, len(answers.got)) == (100, 100)


@pytest.mark.parametrize("where", ["requests", "answer"])
async def test_an_error_ends_a_stream_and_what_is_under_way(where: str) -> None:
    cancelled = asyncio.Event()

    async def requests() -> AsyncIterator[int]:
        yield 0
        await under_way.wait()
        if where == "requests":
            raise ValueError(where)
        yield 1
        await asyncio.Event().wait()

    async def answer(request: int, tell) -> int:
        if request == 1:
            raise ValueError(where)
        under_way.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return 0

    under_way = asyncio.Event()
    with pytest.raises(ValueError, match=where):
        await asyncio.wait_for(pipeline(requests(), answer, Answers(), asyncio.Event()), 10)
    assert cancelled.is_set()
