"""Several servers behind one client: calls are distributed, and a server that dies fails no call."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from resonnx import AsyncClient, Classification, Client, ResonnxError, Unavailable

from ...server.bare_graphs import doubling
from .several import CALLERS, Small, ask_by_tasks, ask_by_threads, small_servers

Outcomes = list[tuple[int, Classification | ResonnxError]]


@pytest.fixture
def small() -> Iterator[list[Small]]:
    with small_servers(["127.0.0.1:0"] * 3) as servers:
        yield servers


def _address(servers: list[Small], form: str = "") -> str:
    """Return a client's address of all: a list of servers, or what gRPC takes for a name with several addresses."""
    return form + ",".join(f"127.0.0.1:{server.port}" for server in servers)


@pytest.mark.parametrize("run", [ask_by_threads, ask_by_tasks])
@pytest.mark.parametrize("form", ["", "ipv4:"])
def test_no_call_fails_when_a_server_is_killed(small: list[Small], form: str, run: Callable[..., None]) -> None:
    lock = threading.Lock()
    before: Counter[int] = Counter()
    after: Counter[int] = Counter()

    def ask(version: int) -> bool:
        with lock:
            (before if small[0].lives else after)[version] += 1
            if small[0].lives and before.total() >= 300:
                small[0].kill()
            return after.total() < 600

    run(_address(small, form), ask)
    assert before.keys() == {1, 2, 3}
    assert min(before.values()) >= 50, "calls are distributed"
    # Answers that were on their way.
    assert after[1] <= 2 * CALLERS
    assert min(after[2], after[3]) >= 150


@pytest.mark.slow
@pytest.mark.parametrize("run", [ask_by_threads, ask_by_tasks])
@pytest.mark.parametrize("form", ["", "ipv4:"])
def test_no_call_of_served_models_fails(start_server, tmp_path: Path, form: str, run: Callable[..., None]) -> None:
    (tmp_path / "digits/1").mkdir(parents=True)
    (tmp_path / "digits/1/model.onnx").write_bytes(doubling())
    with ExitStack() as stack:
        servers = [stack.enter_context(start_server(tmp_path)) for _ in range(3)]
        lock = threading.Lock()
        count = 0

        def ask(version: int) -> bool:
            nonlocal count
            with lock:
                count += 1
                if count == 300:
                    servers[0].process.kill()
                return count < 900

        run(form + ",".join(server.grpc for server in servers), ask)


def test_a_call_fails_when_no_server_is_left(small: list[Small]) -> None:
    for server in small:
        server.kill()
    with Client(_address(small)) as client, pytest.raises(Unavailable):
        client.model("digits")

    async def ask() -> None:
        async with AsyncClient(_address(small)) as client:
            with pytest.raises(Unavailable):
                await client.model("digits")

    asyncio.run(ask())


def _stream(address: str, model: str, count: int) -> Outcomes:
    with Client(address) as client:
        return list(client.classify_stream([str(i).encode() for i in range(count)], model))


def _aio_stream(address: str, model: str, count: int) -> Outcomes:
    async def ask() -> Outcomes:
        async with AsyncClient(address) as client:
            pictures = [str(i).encode() for i in range(count)]
            return [outcome async for outcome in client.classify_stream(pictures, model)]

    return asyncio.run(ask())


@pytest.mark.parametrize("form", ["", "ipv4:"])
def test_a_stream_whose_server_dies_without_an_answer_goes_to_another(small: list[Small], form: str) -> None:
    for dying, stream in zip(small, (_stream, _aio_stream), strict=False):
        # More pictures than are sent ahead. Servers take turns.
        while dying.lives:
            outcomes = stream(_address(small, form), str(dying.number), 40)
            assert [index for index, _ in outcomes] == [*range(40)]
            for index, outcome in outcomes:
                assert isinstance(outcome, Classification)
                assert outcome.predictions[0].label == str(index)
