"""An encoder batch or a decoder step that does not end fails its captions only; all others are made."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from resonnx_server.errors import InferenceHung
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.interruption import runs_of_this_thread
from resonnx_server.scheduling import watchdog
from resonnx_server.scheduling.device import Device

from ..asking import caption
from ..hand import caption_engine
from ..language import Language, alone, ids, picture, spec
from ..waiting import until

HANGS = 65_535
OPTIONS = DecodeOptions(max_tokens=9, min_tokens=9)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_TICK_S", 0.005)
    monkeypatch.setattr(watchdog, "_ENDING_NS", 20_000_000)


class Hanging(Language):
    """The language; one picture hangs in the encoder, or in each step."""

    def __init__(self, where: str, *, ends: bool) -> None:
        super().__init__()
        self.over, self.entered = threading.Event(), 0
        self._where, self._ends = where, ends

    def encode(self, images: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray | None]:
        encoded = super().encode(images)
        if self._where == "encoder":
            self._hang(encoded[1][0])
        return encoded

    def step(self, tokens: np.ndarray, state: Sequence[np.ndarray], features: Sequence[np.ndarray], **kw: Any) -> Any:
        if self._where == "step":
            self._hang(features[0])
        return super().step(tokens, state, features, **kw)

    def _hang(self, pictures: np.ndarray) -> None:
        if not (pictures[:, 0] == HANGS).any() or self.over.is_set():
            return
        self.entered += 1
        runs = runs_of_this_thread()
        assert runs is not None
        while not self.over.wait(0.001):
            if self._ends and runs.is_over:
                raise InferenceHung


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("where", ["encoder", "step"])
async def test_others_are_captioned(where: str, ends: bool) -> None:
    graphs, device = Hanging(where, ends=ends), Device("cpu", 2)
    engine = caption_engine(graphs, device, slots=8, instances=2, run_timeout_s=0.1)
    expected = [ids(alone(Language(), picture(number), spec(), OPTIONS)) for number in range(4)]

    async def words(number: int) -> list[int]:
        ranked = (await caption(engine, picture(number), OPTIONS)).ranked
        return [[token.id for token in sequence.tokens] for sequence, _ in ranked]

    try:
        hangs = asyncio.ensure_future(words(HANGS))
        await until(lambda: graphs.entered)
        # They are encoded, and wait for a step or for slots, while it hangs.
        others = await asyncio.gather(*(words(number) for number in range(4)))
        assert others == expected
        with pytest.raises(InferenceHung):
            await hangs
        assert device.abandoned() == (0 if ends else 1)
        assert await words(2) == expected[2]
        # A step that ends after all changes nothing any more.
        graphs.over.set()
        await until(lambda: device.abandoned() == 0)
        assert await words(3) == expected[3]
        await until(lambda: len(engine.slots) == engine.queued_rows() == engine.schedule.active.rows == 0)
        expected_events = {"interrupted": 1} if ends else {"abandoned": 1, "replacing": 1, "replaced": 1}
        assert engine.stats.session_events == expected_events
    finally:
        graphs.over.set()
        engine.close()
        assert device.close(10)


async def test_captions_in_a_step_that_hangs_fail_with_it() -> None:
    """Their states are in it; those that have no slots yet are not."""
    graphs, device = Hanging("step", ends=False), Device("cpu", 1)
    graphs.over.set()
    engine = caption_engine(graphs, device, slots=2, run_timeout_s=0.1)
    try:
        asks = [
            asyncio.ensure_future(caption(engine, picture(n), DecodeOptions(max_tokens=9, min_tokens=9)))
            for n in (HANGS, 1, 2, 3)
        ]
        graphs.over.clear()
        outcomes = await asyncio.gather(*asks, return_exceptions=True)
        hung = [isinstance(outcome, InferenceHung) for outcome in outcomes]
        assert hung == [True, True, False, False]
    finally:
        graphs.over.set()
        engine.close()
        assert device.close(10)
