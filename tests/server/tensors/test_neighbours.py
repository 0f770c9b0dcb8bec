"""One bad member of any batch, of any kind and at any place, leaves everybody else's answer as it is without it."""

import asyncio
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.captioning import engine as captioner
from resonnx_server.captioning.request import Captioned
from resonnx_server.errors import InferenceFailed, ServerError
from resonnx_server.observe.metrics import Metrics
from resonnx_server.repository import classifiers
from resonnx_server.runtime.decoding.search import DecodeOptions, Search
from resonnx_server.runtime.decoding.sequence import Token
from resonnx_server.runtime.graphs import Step
from resonnx_server.runtime.session import Session
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import sizes_up_to
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool, Tensors
from resonnx_server.tensors.engine import TensorEngine

from ...conftest import examples
from .. import onnx_classifier
from ..asking import caption, infer
from ..hand import Hand, any_options, caption_engine
from ..language import END, STATES, Language, alone, ids, picture, spec

POISON = 65_535
# What goes wrong, and what the caller is told of it.
ENCODER = ["encode raises", "first words are NaN", "a first word far down is NaN"]
STEPS = ["step raises", "best words are NaN", "a word far down is NaN", "all words are impossible"]
CALLER = ["the caller leaves", "words cannot be told", "the caller leaves when told"]
SEARCH = ["needs_log_probs", "advance", "stable_words", "ranked"]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What fails here is logged with its frames, thousands of times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Poisoned(Language):
    """The language, in which one picture's rows fail in one way, in every `every`-th state that they come to."""

    def __init__(self, kind: str, every: int, *, first_words: bool) -> None:
        super().__init__()
        self._kind, self._every, self._first_words = kind, every, first_words

    def encode(self, images: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray | None]:
        state, features, _ = super().encode(images)
        pictures = features[0][:, 0]
        if self._kind == "encode raises" and (pictures == POISON).any():
            raise RuntimeError("a poisoned picture")
        first = None
        if self._first_words:
            first = self.table[(pictures * 31) % STATES].copy()
            first[:, END] = -50
            if self._kind == "first words are NaN":
                first[pictures == POISON] = np.nan
            elif self._kind == "a first word far down is NaN":
                first[pictures == POISON, first[0].argmin()] = np.nan
        return state, features, first

    def step(
        self, tokens: np.ndarray, state: Sequence[np.ndarray], features: Sequence[np.ndarray], **wanted: bool
    ) -> Step:
        step = super().step(tokens, state, features, **wanted)
        bad = (features[0][:, 0] == POISON) & (step.state[0][:, 0] % self._every == 0)
        if self._kind == "step raises" and bad.any():
            raise RuntimeError("a poisoned row")
        top, every = step.top_log_probs.copy(), None if step.log_probs is None else step.log_probs.copy()
        if self._kind == "best words are NaN":
            top[bad, self._every % top.shape[1] :] = np.nan
        elif self._kind == "all words are impossible":
            top[bad] = -np.inf
        elif self._kind == "a word far down is NaN" and every is not None:
            every[bad, 39] = np.nan
        return replace(step, top_log_probs=top, log_probs=every)


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


def _times(feeds: Mapping[str, np.ndarray], kind: str) -> Tensors:
    """Answer each row by itself, but for bad rows, which hold -1."""
    values = feeds["x"]
    bad = values[:, 0] == -1
    if kind == "run raises" and bad.any():
        raise RuntimeError("a poisoned row")
    outputs = {"probabilities": values / 7, "logits": values * 3}
    if kind in outputs:
        outputs[kind][bad, -1] = np.nan
    elif kind == "infinite":
        outputs["logits"][bad, 0] = -np.inf
    return outputs


async def _compute(asked: list[tuple[int, np.ndarray]], bad: int | None, kind: str, seed: int) -> list[object]:
    """Return what became of each request, on a device whose jobs end in an order of the seed's."""
    rng = random.Random(seed)
    raised: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
    device = Hand(rng.randrange(1, 4), rng)
    # Some sizes are padded to.
    table = LatencyTable({size: 1e6 + 1e4 * size for size in sizes_up_to(8) if rng.random() < 0.7 or size == 8})
    pool = SessionPool(lambda feeds: _times(feeds, kind), table)
    engine = TensorEngine(
        InstanceGroup(pool, pool, device.lanes), device, Metrics().model("m", 1), max_queue_rows=1000, finite=True
    )
    tasks: dict[int, asyncio.Task[Any]] = {}
    leaves_ns = rng.randrange(12) * 500_000
    while len(tasks) < len(asked) or not all(task.done() for task in tasks.values()):
        for number, (at_ns, rows) in enumerate(asked):
            if number not in tasks and at_ns <= device.ns:
                tasks[number] = asyncio.ensure_future(infer(engine, {"x": rows}))
        if kind == "the caller leaves" and bad is not None and bad in tasks and device.ns >= leaves_ns:
            tasks[bad].cancel()
        await asyncio.sleep(0)
        device.turn(engine)
        await asyncio.sleep(0)
    while device.idle_lanes() < device.lanes:
        device.turn(engine)
    await asyncio.sleep(0)
    assert engine.queued_rows() == 0
    assert not raised
    engine.close()
    results = await asyncio.gather(*(tasks[number] for number in range(len(asked))), return_exceptions=True)
    return [result[0] if isinstance(result, tuple) else result for result in results]


@examples(100)
@given(
    st.integers(0, 2**32),
    st.sampled_from(["run raises", "probabilities", "logits", "infinite", "the caller leaves"]),
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 20)), min_size=1, max_size=12),
    st.data(),
)
def test_classifiers(seed: int, kind: str, asked: list[tuple[int, int]], data: st.DataObject) -> None:
    numbers = np.random.default_rng(seed)
    requests = [(at * 1_000_000, numbers.random((rows, 3), np.float32)) for at, rows in asked]
    bad = data.draw(st.integers(0, len(requests)))
    rows = numbers.random((data.draw(st.integers(1, 20)), 3), np.float32)
    rows[data.draw(st.integers(0, len(rows) - 1))] = -1
    poisoned = [*requests[:bad], (data.draw(st.integers(0, 4)) * 1_000_000, rows), *requests[bad:]]
    without = asyncio.run(_compute(requests, None, kind, seed))
    beside = asyncio.run(_compute(poisoned, bad, kind, seed))
    outcome = beside.pop(bad)
    for mine, other in zip(beside, without, strict=True):
        assert isinstance(mine, dict)
        assert isinstance(other, dict)
        assert all(np.array_equal(mine[name], other[name]) for name in ("probabilities", "logits"))
    if kind == "the caller leaves":
        assert isinstance(outcome, asyncio.CancelledError | dict)
    else:
        assert isinstance(outcome, InferenceFailed)
        assert outcome.__cause__ is outcome.__context__ is None, "frames, and with them everybody's inputs"


@pytest.mark.parametrize("poisoned", ["probabilities", "logits", "features"])
async def test_a_classifier_with_a_manifest_answers_no_nan(poisoned: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a picture of nothing but white gives one."""
    run = Session.run

    def answers(session: Session, feeds: Tensors, *more: object) -> Tensors:
        outputs = {name: array.copy() for name, array in run(session, feeds, *more).items()}
        outputs[poisoned][(feeds["image"] == 255).all(axis=(1, 2, 3)), 1] = np.nan
        return outputs

    monkeypatch.setattr(Session, "run", answers)
    device, golden = Device("cpu", 1), onnx_classifier.golden()
    model = classifiers.ENTRY.load(onnx_classifier.version(device, max_batch_size=4), onnx_classifier.files(), golden)()
    white = np.full((1, 2, 2, 3), 255, np.uint8)
    try:
        pictures = [*golden.images[:, np.newaxis], white, np.concatenate([golden.images, white])]
        asks = [infer(model.engine, {"image": images}) for images in pictures]
        *right, failed, also_failed = await asyncio.gather(*asks, return_exceptions=True)
        assert isinstance(failed, InferenceFailed)
        assert isinstance(also_failed, InferenceFailed)
        logits = np.concatenate([answer[0]["logits"] for answer in right])
        np.testing.assert_allclose(logits, golden.logits, rtol=1e-4)
    finally:
        model.engine.close()
        device.close()
