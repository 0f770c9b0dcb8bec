"""Captions whose states and features stay on the device equal those of decoding one picture at a time.

The engine runs them on the CPU provider by IO binding: the same calls as on a GPU, with another device's name. What
they are compared with is Language itself, which knows nothing of ONNX Runtime, devices or slots.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.captioning.device_slots import DeviceRows
from resonnx_server.captioning.engine import CaptionEngine
from resonnx_server.captioning.slots import HostRows
from resonnx_server.errors import InferenceFailed, ModelRefused
from resonnx_server.observe.metrics import Metrics
from resonnx_server.repository.captioner import state_placement
from resonnx_server.repository.captioner.state_placement import PlacedCaptioner, on_device
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.decoding.sequence import pack_captions
from resonnx_server.runtime.device_state import RowGraph
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.model_files.golden_examples import Golden, parse_golden
from resonnx_server.runtime.model_files.manifest import VersionFiles, read_version
from resonnx_server.runtime.page_locked import PageLockedMemory
from resonnx_server.runtime.session import CPU, Candidate, Session
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import sizes_up_to
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool
from resonnx_server.tensors.engine import TensorEngine

from ...conftest import examples
from ..asking import caption, infer
from ..hand import Hand, any_options
from ..language import Language, alone, ids, picture, spec
from ..onnx_language import manifest, onnx_files, open_language
from ..runtime.test_page_locked import Runtime
from ..waiting import until

PICTURES = [np.zeros((1, 1), np.int64)], [np.zeros((1, 1), np.int64)]


@pytest.fixture(scope="module")
def files() -> VersionFiles:
    return VersionFiles("identity", onnx_files(), manifest())


@pytest.fixture(scope="module")
def graphs(files: VersionFiles) -> CaptionerGraphs:
    return open_language(files.files)


def _make(placed: PlacedCaptioner, device: Device, **more: object) -> CaptionEngine:
    steps = {size: 1e6 + 1e4 * size for size in sizes_up_to(placed.slots.capacity)}
    return CaptionEngine(
        spec(),
        InstanceGroup.single(
            SessionPool(placed.graphs.encode, LatencyTable({size: 1e6 * size for size in sizes_up_to(16)}))
        ),
        InstanceGroup.single(SessionPool(placed.graphs.step, LatencyTable(steps))),
        placed.slots,
        device,
        Metrics().model("m", 1),
        max_queue_rows=5000,
        **more,  # type: ignore[arg-type]
    )


@asynccontextmanager
async def _engine(files: VersionFiles, graphs: CaptionerGraphs, lanes: int = 2) -> AsyncIterator[CaptionEngine]:
    device = Device("test", lanes, allocate=PageLockedMemory(Runtime()).allocate)
    engine = _make(on_device(files, graphs, PICTURES, 32), device)
    try:
        yield engine
    finally:
        engine.close()
        device.close()


async def _ask(engine: CaptionEngine, language: Language, number: int, options: DecodeOptions) -> None:
    captioned = await caption(engine, picture(number), options)
    expected = alone(language, picture(number), spec(), options).ranked()
    for (found, score), (wanted, wanted_score) in zip(captioned.ranked, expected, strict=True):
        assert [t.id for t in found.tokens] == [t.id for t in wanted.tokens]
        assert score == wanted_score
        if options.attention:
            for mine, other in zip(found.tokens, wanted.tokens, strict=True):
                assert np.array_equal(mine.attention, other.attention)


async def test_every_caption_is_its_own(files: VersionFiles, graphs: CaptionerGraphs) -> None:
    """Greedy, beams, sampling, with and without attention; every third is cancelled at some moment."""
    rng, language = random.Random(8), Language()
    async with _engine(files, graphs) as engine:

        async def ask(number: int) -> None:
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            task = asyncio.ensure_future(_ask(engine, language, number, any_options(rng)))
            if number % 3 == 0:
                for _ in range(rng.randrange(12)):
                    await asyncio.sleep(0.0005 if rng.random() < 0.3 else 0)
                task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

        await asyncio.wait_for(asyncio.gather(*(ask(number) for number in range(300))), 100)
        await until(lambda: engine.schedule.active.rows == 0 and len(engine.slots) == 0)
        assert engine.stats.tokens > 0


@examples(15)
@given(st.integers(0, 2**32), st.integers(10, 40))
def test_any_schedule_gives_the_captions_of_one_at_a_time(
    files: VersionFiles, graphs: CaptionerGraphs, seed: int, slots: int
) -> None:
    """Under an injected clock: mixed wishes, arrivals and cancellations, 25 requests a schedule."""
    rng, language = random.Random(seed), Language()

    async def run() -> None:
        device = Hand(1, rng)
        engine = _make(on_device(files, graphs, PICTURES, slots), device)
        asked = {}
        for number in range(25):
            at = rng.randrange(60) * 1_000_000
            asked[number] = (at, at + rng.randrange(60) * 1_000_000 if rng.random() < 0.3 else None, any_options(rng))
        tasks: dict[int, asyncio.Task[None]] = {}
        while len(tasks) < len(asked) or not all(task.done() for task in tasks.values()):
            for number, (at, leaves, options) in asked.items():
                if at <= device.ns and number not in tasks:
                    tasks[number] = asyncio.ensure_future(_ask(engine, language, number, options))
                elif leaves is not None and leaves <= device.ns and number in tasks:
                    tasks[number].cancel()
            await asyncio.sleep(0)
            device.turn(engine)
            await asyncio.sleep(0)
        for task in tasks.values():
            if not task.cancelled():
                task.result()
        device.turn(engine)
        assert len(engine.slots) == engine.queued_rows() == engine.schedule.active.rows == 0

    asyncio.run(run())


async def test_log_probabilities_and_attention_come_down_only_when_asked_for(
    files: VersionFiles, graphs: CaptionerGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[tuple[str, ...]] = []
    run = Session.run
    from resonnx_server.runtime import device_state

    def noted(session: Session, host: object, given: object, down: object, kept: object) -> object:
        fetched.append(tuple(down))
        return run_bound(session, host, given, down, kept)

    run_bound = device_state.run_bound
    monkeypatch.setattr(device_state, "run_bound", noted)
    monkeypatch.setattr(Session, "run", None)
    async with _engine(files, graphs) as engine:
        await caption(engine, picture(2), DecodeOptions(max_tokens=9, beam_width=10))
        assert set(fetched) == {(), ("top_ids", "top_log_probs")}
        await caption(engine, picture(2), DecodeOptions(max_tokens=9, temperature=1.0, attention=True))
        assert fetched[-1] == ("top_ids", "top_log_probs", "attention", "log_probs")
    monkeypatch.setattr(Session, "run", run)


async def test_a_step_that_fails_fails_its_captions_and_the_next_are_well(
    files: VersionFiles, graphs: CaptionerGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    language = Language()
    async with _engine(files, graphs) as engine:
        with monkeypatch.context() as broken:
            broken.setattr(RowGraph, "__call__", None)
            with pytest.raises(InferenceFailed):
                await caption(engine, picture(3), DecodeOptions(max_tokens=9))
        await _ask(engine, language, 3, DecodeOptions(max_tokens=9, beam_width=4))
        assert len(engine.slots) == 0


async def test_a_classifier_shares_the_device(files: VersionFiles, graphs: CaptionerGraphs) -> None:
    language = Language()
    async with _engine(files, graphs) as engine:
        doubles = SessionPool(lambda feeds: {"y": feeds["x"] * 2}, LatencyTable(dict.fromkeys(sizes_up_to(16), 1e6)))
        stats = Metrics().model("c", 1)
        classifier = TensorEngine(InstanceGroup(doubles, doubles, 2), engine.device, stats, max_queue_rows=1000)

        async def classify(number: int) -> None:
            outputs, _ = await infer(classifier, {"x": np.array([[number]])})
            assert outputs["y"].tolist() == [[2 * number]]

        options = DecodeOptions(max_tokens=20, beam_width=3)
        asks = [_ask(engine, language, number, options) for number in range(40)]
        await asyncio.wait_for(asyncio.gather(*asks, *(classify(number) for number in range(200))), 60)
        classifier.close()


def _swapped(files: VersionFiles) -> VersionFiles:
    """With a graph for states that gives rows of another order."""
    import onnx

    model = onnx.load_model_from_string(files.files["state_rows.onnx"])
    for node in model.graph.node:
        if node.op_type == "Concat":
            node.input[:] = reversed(node.input)
    return VersionFiles("", {**files.files, "state_rows.onnx": model.SerializeToString()}, files.manifest)


def _golden(graphs: CaptionerGraphs) -> Golden:
    images = np.stack([picture(number) for number in range(1, 7)])
    captions = decode_all(graphs, images, spec())
    tokens, log_probs = pack_captions(captions, spec())
    return Golden(images=images, tokens=tokens, log_probs=log_probs)


@contextmanager
def _memory_apart() -> Iterator[None]:
    """The CPU's memory counts as a device's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_placement, "_APART", ("cpu",))
        yield


def test_the_cpu_keeps_its_captions_in_host_memory(files: VersionFiles, graphs: CaptionerGraphs) -> None:
    placed = state_placement.place_state(files, graphs, _golden(graphs), 1e-3)
    assert placed.graphs is graphs
    assert isinstance(placed.slots._state, HostRows)
    assert isinstance(placed.slots._features, HostRows)


def test_a_device_keeps_captions_that_are_as_they_should_be(files: VersionFiles, graphs: CaptionerGraphs) -> None:
    golden = _golden(graphs)
    with _memory_apart():
        placed = state_placement.place_state(files, graphs, golden, 1e-3)
    assert placed.graphs is not graphs
    assert isinstance(placed.slots._state, DeviceRows)
    assert isinstance(placed.slots._features, DeviceRows)
    assert placed.slots.capacity == 64
    found = state_placement.decode_in_slots(placed.graphs, placed.slots, golden.images, spec())
    language = Language()
    for image, captioned in zip(golden.images, found, strict=True):
        assert [[token.id for token in captioned.tokens]] == ids(
            alone(language, image, spec(), DecodeOptions(max_tokens=24))
        )
    assert len(placed.slots) == 0


def test_captions_leave_the_device_where_staying_is_wrong_or_impossible(
    files: VersionFiles, graphs: CaptionerGraphs, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = _golden(graphs)

    def reason(version: VersionFiles) -> str:
        caplog.clear()
        with _memory_apart(), caplog.at_level(logging.WARNING):
            placed = state_placement.place_state(version, graphs, golden, 1e-3)
        assert placed.graphs is graphs
        (record,) = caplog.records
        return str(record.reason)

    earlier = {name: content for name, content in files.files.items() if "rows" not in name}
    assert "has no feature_rows.onnx" in reason(VersionFiles("", earlier, files.manifest))
    other = {**files.files, "state_rows.onnx": files.files["feature_rows.onnx"]}
    assert "expected those of ['state_0']" in reason(VersionFiles("", other, files.manifest))
    assert "captions differ" in reason(_swapped(files))
    monkeypatch.setattr("resonnx_server.runtime.device_state.run_bound", None)
    assert "NoneType" in reason(files)


def test_an_exported_captioner_stays_on_a_device(demo_repository) -> None:
    version = read_version(demo_repository / "scenes" / "1")
    candidate = Candidate(CPU, version.manifest.precisions[0].precision)
    sessions = [Session(version.files[f"{name}.onnx"], candidate, 2) for name in ("encoder", "decoder")]
    graphs = CaptionerGraphs(*sessions, version.manifest)
    golden = parse_golden(version.files["golden.npz"])
    with _memory_apart():
        placed = state_placement.place_state(version, graphs, golden, 1e-3)
    assert placed.graphs is not graphs
    assert isinstance(placed.slots._state, DeviceRows)
    assert isinstance(placed.slots._features, DeviceRows)
    with pytest.raises(ModelRefused, match="no feature_rows"):
        on_device(VersionFiles("", {}, version.manifest), graphs, ([], []), 4)
