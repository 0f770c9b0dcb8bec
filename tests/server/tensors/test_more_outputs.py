"""Outputs that some requests of a batch ask for: only they get them, and only then are they fetched."""

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
from resonnx_server.scheduling.session_pool import Tensors
from resonnx_server.tensors.engine import AnyTensorEngine, TensorCost

from .doubling import Doubling, rows_of, running_engine


class _Mapped(Doubling):
    """Gives a map of each row as well, if it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[tuple[int, list[str]]] = []

    def __call__(self, feeds: Mapping[str, np.ndarray], *, more: Sequence[str] = ()) -> Tensors:
        outputs = super().__call__(feeds)
        self.fetched.append((len(feeds["x"]), list(more)))
        return outputs | {name: np.repeat(feeds["x"][:, :, np.newaxis], 9, axis=2) for name in more}


async def _ask(engine: AnyTensorEngine, *values: int, more: tuple[str, ...] = ()) -> Tensors:
    with engine.reserve(TensorCost(len(values))) as reservation:
        reservation.more_outputs = more
        return (await engine.submit(rows_of(*values), reservation))[0]


async def test_only_requests_that_ask_get_further_outputs() -> None:
    runtime = _Mapped()
    async with running_engine(runtime) as engine:
        runtime.free.clear()
        first = asyncio.create_task(_ask(engine, 1))
        while not runtime.entered:
            await asyncio.sleep(0)
        others = [
            asyncio.create_task(_ask(engine, *values, more=more))
            for values, more in (((2,), ()), ((3, 4), ("map",)), ((5,), ()), ((6,), ("map",)))
        ]
        await asyncio.sleep(0)
        runtime.free.set()
        plain, *answers = await asyncio.gather(first, *others)
        last = await _ask(engine, 7)
    assert [set(each) for each in (plain, *answers, last)] == [
        {"y"},
        {"y"},
        {"y", "map"},
        {"y"},
        {"y", "map"},
        {"y"},
    ]
    assert answers[1]["map"][:, 0].tolist() == [[3] * 9, [4] * 9]
    assert answers[3]["map"][:, 0].tolist() == [[6] * 9]
    # A view would keep the maps of the whole batch.
    assert answers[1]["map"].base is None
    assert [more for _, more in runtime.fetched] == [[], ["map"], []]
    assert runtime.fetched[1][0] >= 5


async def test_a_request_that_is_split_gets_them_in_order() -> None:
    runtime = _Mapped()
    async with running_engine(runtime) as engine:
        found = await _ask(engine, *range(1, 41), more=("map",))
    assert len(runtime.fetched) > 1
    assert found["map"][:, 0, 0].tolist() == list(range(1, 41))
