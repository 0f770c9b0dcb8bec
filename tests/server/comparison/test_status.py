"""A comparison is in the status at every moment, also while its end is under way."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from resonnx_server.comparison.comparisons import Comparisons


class Held:
    """A comparison whose end waits."""

    name = "m"
    new_version = 2
    models = (SimpleNamespace(version=1), SimpleNamespace(version=2))
    evidence = SimpleNamespace(n=0, agreeing=0, errors=0)
    kept = SimpleNamespace(found=(), clear=lambda: None)

    def __init__(self) -> None:
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()

    async def end(self, *_: object) -> None:
        self.begun.set()
        await self.may_end.wait()


async def test_a_comparison_whose_version_was_lost_is_listed_while_it_ends() -> None:
    models: Any = SimpleNamespace(serves=lambda model: model.version == 1, control=None)
    budget: Any = None
    comparisons = Comparisons(models, budget)
    held: Any = Held()
    comparisons._running["m"] = held
    watch = asyncio.create_task(comparisons._watch(held))
    await held.begun.wait()
    assert comparisons.status() == [held]
    held.may_end.set()
    await watch
    assert comparisons.status() == [held]
    assert not comparisons._ending


@pytest.mark.parametrize("decision", ["promote", "roll_back"])
async def test_a_decision_is_carried_out_without_its_caller(decision: str) -> None:
    is_asked, may_go_on = asyncio.Event(), asyncio.Event()

    async def change(*_: object) -> None:
        is_asked.set()
        await may_go_on.wait()

    control = SimpleNamespace(promote=change, withdraw=change)
    models: Any = SimpleNamespace(serves=lambda _: True, is_default=lambda _: True, control=control)
    budget: Any = None
    comparisons = Comparisons(models, budget)
    held: Any = Held()
    held.may_end.set()
    comparisons._running["m"] = held
    call = asyncio.create_task(getattr(comparisons, decision)("m"))
    await is_asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert comparisons.status() == [held]
    may_go_on.set()
    while comparisons._ending:
        await asyncio.sleep(0)
    assert comparisons.status() == [held]
