"""One bad caption at any place, of any kind, leaves everybody else's as it is without it."""

import asyncio
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.captioning import engine as captioner
from resonnx_server.captioning.request import Captioned
from resonnx_server.errors import InferenceFailed, ServerError
from resonnx_server.runtime.decoding.search import DecodeOptions, Search
from resonnx_server.runtime.decoding.sequence import Token

from ...conftest import examples
from ..asking import caption
from ..hand import Hand, any_options, caption_engine
from ..language import Language, alone, ids, picture, spec
from .graphs import POISON, Poisoned

# What goes wrong, and what the caller is told of it.
ENCODER = ["encode raises", "first words are NaN", "a first word far down is NaN"]
STEPS = ["step raises", "best words are NaN", "a word far down is NaN", "all words are impossible"]
CALLER = ["the caller leaves", "words cannot be told", "the caller leaves when told"]
SEARCH = ["needs_log_probs", "advance", "stable_words", "ranked"]


class Failing:
    """A search, of which one method fails when it is called for the `number`-th time."""

    def __init__(self, search: Search, method: str, number: int) -> None:
        self._search, self._method, self._left = search, method, number

    def __getattr__(self, name: str) -> Any:
        if name == self._method:
            self._left -= 1
            if self._left < 0:
                raise RuntimeError(f"{name} of a poisoned search")
        return getattr(self._search, name)


@dataclass
class Asked:
    """A request of one caller, and what came of it."""

    number: int
    at_ns: int
    options: DecodeOptions
    streams: bool
    told: list[tuple[int, float]] = field(default_factory=list)
    task: "asyncio.Task[Captioned] | None" = None

    def hear(self, words: list[Token]) -> None:
        self.told += [(word.id, word.log_prob) for word in words]

    def answer(self) -> object:
        """What the caller has got: tokens, log-probabilities, scores, and the words in their order."""
        assert self.task is not None
        ranked = self.task.result().ranked
        return [(score, [(t.id, t.log_prob) for t in sequence.tokens]) for sequence, score in ranked], self.told


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What fails here is logged with its frames, thousands of times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def _requests(rng: random.Random) -> list[Asked]:
    numbers = range(rng.randrange(4, 12))
    return [Asked(n, rng.randrange(6) * 1_500_000, any_options(rng), rng.random() < 0.5) for n in numbers]


async def _caption(
    asked: list[Asked], bad: Asked | None, graphs: Language, kind: str, seed: int, first_words: bool, instances: int
) -> None:
    """Have all captions made, on a device whose jobs end in an order of the seed's."""
    rng = random.Random(seed)
    raised: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
    of = spec()
    if first_words:
        of.ClearField("start_id")
    device = Hand(instances, rng)
    engine = caption_engine(graphs, device, slots=rng.randrange(10, 33), instances=instances, of=of)
    leaves_ns = rng.randrange(60) * 500_000

    def fails(words: list[Token]) -> None:
        assert bad is not None
        assert bad.task is not None
        bad.hear(words)
        if len(bad.told) > seed % 4:
            if kind == "the caller leaves when told":
                bad.task.cancel()
            raise RuntimeError("words of another shape than promised")

    everybody = asked if bad is None else [*asked, bad]
    rng.shuffle(everybody)
    for _ in range(10_000):
        if all(each.task is not None and each.task.done() for each in everybody):
            break
        for each in everybody:
            if each.task is None and each.at_ns <= device.ns:
                on_words = (fails if each is bad and kind in CALLER else each.hear) if each.streams else None
                each.task = asyncio.ensure_future(caption(engine, picture(each.number), each.options, on_words))
        if bad is not None and bad.task is not None and kind == "the caller leaves" and device.ns >= leaves_ns:
            bad.task.cancel()
        await asyncio.sleep(0)
        device.turn(engine)
        await asyncio.sleep(0)
    assert all(each.task is not None and each.task.done() for each in everybody)
    while device.idle_lanes() < device.lanes:
        device.turn(engine)
    # Who has left is noticed before the next step.
    device.turn(engine)
    await asyncio.sleep(0)
    assert len(engine.slots) == engine.queued_rows() == engine.schedule.active.rows == 0
    assert not raised
    engine.close()


@examples(100)
@given(
    st.integers(0, 2**32),
    st.sampled_from([*ENCODER, *STEPS, *CALLER, *SEARCH]),
    st.integers(1, 4),
    st.booleans(),
    st.integers(1, 2),
)
def test_captions(seed: int, kind: str, every: int, first_words: bool, instances: int) -> None:
    rng = random.Random(seed)
    options = any_options(rng)
    if kind == "a word far down is NaN":
        options = DecodeOptions(max_tokens=12, min_tokens=6, temperature=1.0, seed=seed)
    first_words |= "first word" in kind
    bad = Asked(POISON, rng.randrange(6) * 1_500_000, options, kind in CALLER or rng.random() < 0.5)
    without, beside = _requests(random.Random(seed)), _requests(random.Random(seed))
    start_search = captioner.start_search

    def start(of: Any, asked: DecodeOptions) -> Search:
        search = start_search(of, asked)
        return Failing(search, kind, seed % 5) if kind in SEARCH and asked is options else search

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captioner, "start_search", start)
        for asked, there in ((without, None), (beside, bad)):
            graphs = Poisoned(kind, every, first_words=first_words)
            asyncio.run(_caption(list(asked), there, graphs, kind, seed, first_words, instances))
    assert [each.answer() for each in beside] == [each.answer() for each in without]
    assert bad.task is not None
    if bad.task.cancelled():
        assert kind in CALLER
    elif (error := bad.task.exception()) is not None:
        assert type(error) is (ServerError if kind in CALLER else InferenceFailed)
        assert error.__cause__ is error.__context__ is None, "frames, and with them everybody's pictures"
    else:
        # It came to nothing bad.
        assert kind not in ENCODER
        assert all(np.isfinite(t.log_prob) for sequence, _ in bad.task.result().ranked for t in sequence.tokens)


async def test_what_a_caption_did_not_ask_for_does_not_fail_it() -> None:
    """A greedy caption of a picture that has NaN far down, where only those who draw words look."""
    options = DecodeOptions(max_tokens=9, min_tokens=9)
    draws = DecodeOptions(max_tokens=9, min_tokens=9, temperature=1.0)
    for company in (False, True):
        graphs = Poisoned("a word far down is NaN", 1, first_words=False)
        device = Hand(1, random.Random(0))
        engine = caption_engine(graphs, device)
        asks = [asyncio.ensure_future(caption(engine, picture(POISON), options))]
        if company:
            asks.append(asyncio.ensure_future(caption(engine, picture(1), draws)))
        while not all(ask.done() for ask in asks):
            await asyncio.sleep(0)
            device.turn(engine)
            await asyncio.sleep(0)
        assert any(log_probs for _, log_probs in graphs.asked) == company
        ranked = asks[0].result().ranked
        assert [[token.id for token in sequence.tokens] for sequence, _ in ranked] == ids(
            alone(Language(), picture(POISON), spec(), options)
        )
        engine.close()
