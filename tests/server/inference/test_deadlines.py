"""Priorities and timeouts of the task API's requests, before real engines whose graphs can be held up."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from resonnx_proto.v1 import manifest_pb2, vision_pb2
from resonnx_server.access.caller import unnamed
from resonnx_server.captioning.engine import CaptionEngine
from resonnx_server.captioning.request import CaptionCost
from resonnx_server.captioning.slots import host_slots
from resonnx_server.errors import DeadlineUnreachable, WaitTooLong
from resonnx_server.inference.registry import Model, Models
from resonnx_server.inference.requests import Inference
from resonnx_server.inference.tasks import CAPTION, CLASSIFY
from resonnx_server.memory.budget import Budget
from resonnx_server.observe.metrics import Metrics
from resonnx_server.preprocessing.decode import Decoder
from resonnx_server.protocol.pieces import Pieces
from resonnx_server.rpc.vision.picture_request import PictureRequest
from resonnx_server.rpc.vision.servicer import VisionServicer
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.pictures.options import PictureOptions
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.session_pool import AnyInstanceGroup, InstanceGroup, SessionPool, Tensors
from resonnx_server.tensors.engine import TensorEngine

from ..asking import caption
from ..language import Language, picture, spec
from ..waiting import Clock, until

ONE_BY_ONE = {1: 1e6}


class Graphs(Language):
    """A classifier and a captioner that note whose pictures came in which order, one by one, and can be held up."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.seen: list[int] = []

    def classify(self, feeds: Mapping[str, np.ndarray]) -> Tensors:
        self._see(feeds["image"])
        return {"probabilities": np.full((1, 2), 0.5, np.float32)}

    def encode(self, images: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], None]:
        self._see(images)
        return super().encode(images)

    def _see(self, images: np.ndarray) -> None:
        self.seen.append(int(images[0, 0, 0, 0]))
        self.free.wait(20)


class Context:
    """A call without a deadline."""

    caller = unnamed("")

    def __init__(self) -> None:
        self.caller = unnamed("ipv4:127.0.0.1:1")
        self.code = grpc.StatusCode.OK
        self.message = ""
        self.trailers: dict[str, str | bytes] = {}

    def time_remaining(self) -> float | None:
        return None

    def set_status(self, code: grpc.StatusCode, message: str, trailers: Sequence[tuple[str, str | bytes]]) -> None:
        self.code, self.message, self.trailers = code, message, dict(trailers)


class Service:
    """The task API over one model, "m"."""

    def __init__(self, graphs: Graphs, task: str, device: Device, decoder: Decoder) -> None:
        stats = Metrics().model("m", 1)
        one_by_one = LatencyTable(ONE_BY_ONE)
        manifest = manifest_pb2.Manifest(input={"width": 1, "height": 1, "resize": "RESIZE_STRETCH"})
        self.engine: TensorEngine | CaptionEngine
        if task == "classifier":
            manifest.classifier.labels.extend(["a", "b"])
            group = InstanceGroup.single(SessionPool(graphs.classify, one_by_one))
            self.engine = TensorEngine(group, device, stats, max_queue_rows=8)
        else:
            manifest.captioner.CopyFrom(spec())
            self.engine = CaptionEngine(
                spec(),
                InstanceGroup.single(SessionPool(graphs.encode, one_by_one)),
                InstanceGroup.single(SessionPool(graphs.step, LatencyTable(dict.fromkeys((1, 2, 4, 8), 1e6)))),
                host_slots(8, [np.zeros((1, 1), np.int64)], [np.zeros((1, 1), np.int64)]),
                device,
                stats,
                max_queue_rows=8,
            )
        models = Models(loading=False)
        models.add(
            Model(
                "m",
                1,
                CLASSIFY if task == "classifier" else CAPTION,
                manifest,
                "",
                True,
                (),
                (),
                1,
                8,
                sessions=(),
                stats=stats,
                engine=self.engine,
                pictures=PictureOptions(manifest.input),
            )
        )
        self._is_classifier = task == "classifier"
        self._servicer = VisionServicer(Inference(models, decoder, Budget(1 << 20)), 64 << 20, Pieces())

    async def ask(self, number: int, **fields: Any) -> grpc.StatusCode:
        """Send picture `number` and return the call's status."""
        return (await self.call(number, **fields)).code

    async def call(self, number: int, **fields: Any) -> Context:
        """Send picture `number` and return the call, ended."""
        context = Context()
        fields["image"] = {"raw": {"rgb": picture(number).tobytes(), "width": 1, "height": 1}}
        if self._is_classifier:
            request = PictureRequest.of(vision_pb2.ClassifyRequest(model="m", **fields))
            await self._servicer.Classify(request, context)
        else:
            caption = PictureRequest.of(vision_pb2.CaptionRequest(model="m", **fields))
            await self._servicer.Caption(caption, context)
        return context


@asynccontextmanager
async def _service(graphs: Graphs, task: str) -> AsyncIterator[Service]:
    device, decoder = Device("test"), Decoder(1)
    service = Service(graphs, task, device, decoder)
    try:
        yield service
    finally:
        graphs.free.set()
        service.engine.close()
        device.close()
        assert await decoder.close(10)


@pytest.mark.parametrize("task", ["classifier", "captioner"])
async def test_who_waits_is_served_by_priority(task: str) -> None:
    graphs = Graphs()
    async with _service(graphs, task) as service:
        asks = [asyncio.ensure_future(service.ask(0))]
        await until(lambda: graphs.seen == [0])
        wishes = [{"priority": 8}, {}, {"priority": 1}, {"priority": 0}, {"priority": 3}]
        for number, wish in enumerate(wishes, 1):
            asks.append(asyncio.ensure_future(service.ask(number, **wish)))
            await until(lambda number=number: service.engine.queued_rows() == number)
        graphs.free.set()
        assert set(await asyncio.gather(*asks)) == {grpc.StatusCode.OK}
    assert graphs.seen == [0, 3, 5, 2, 4, 1]


@pytest.mark.parametrize("task", ["classifier", "captioner"])
async def test_a_timeout_ends_the_wait_of_its_own_request(task: str) -> None:
    graphs = Graphs()
    async with _service(graphs, task) as service:
        first = asyncio.ensure_future(service.ask(0))
        await until(lambda: graphs.seen == [0])
        patient = asyncio.ensure_future(service.ask(1, timeout_us=2**64 - 1))
        # Let in: the server cannot foresee that the lane is held up.
        assert await service.ask(2, timeout_us=500_000) is grpc.StatusCode.DEADLINE_EXCEEDED
        assert service.engine.queued_rows() == 1
        graphs.free.set()
        assert await asyncio.gather(first, patient) == [grpc.StatusCode.OK] * 2
    assert graphs.seen == [0, 1]


@pytest.mark.parametrize(("task", "alone_ms"), [("classifier", 1), ("captioner", 13)])
async def test_who_would_be_late_is_told_whether_for_the_work_or_for_the_wait(task: str, alone_ms: int) -> None:
    """A caption's 12 words and one encoding take 13 ms and a little, and 1 ms each of those before it."""
    graphs = Graphs()
    wishes = {} if task == "classifier" else {"min_tokens": 12, "max_tokens": 12}
    async with _service(graphs, task) as service:
        asks = [asyncio.ensure_future(service.ask(0))]
        await until(lambda: graphs.seen == [0])
        asks += [asyncio.ensure_future(service.ask(number)) for number in range(1, 7)]
        await until(lambda: service.engine.queued_rows() == 6)
        for _ in range(10):
            call = await service.call(7, timeout_us=alone_ms * 1000 - 300, **wishes)
            assert call.code is grpc.StatusCode.DEADLINE_EXCEEDED
            assert _details(call) == ("DEADLINE_UNREACHABLE", None)
            assert call.trailers["grpc-retry-pushback-ms"] == "-1"
            assert re.search(rf"would take {alone_ms}(\.1)? ms even on an idle device", call.message)
        call = await service.call(7, timeout_us=alone_ms * 1000 + 5000, **wishes)
        assert call.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        hint = call.trailers["grpc-retry-pushback-ms"]
        assert isinstance(hint, str)
        assert 20 <= int(hint) <= 2000
        assert _details(call) == ("WAIT_TOO_LONG", int(hint))
        asks.append(asyncio.ensure_future(service.ask(7, timeout_us=30_000_000, **wishes)))
        await until(lambda: service.engine.queued_rows() == 7)
        graphs.free.set()
        assert set(await asyncio.gather(*asks)) == {grpc.StatusCode.OK}


def _details(call: Context) -> tuple[str, int | None]:
    """Return the reason and the hint, in ms, among a call's details."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    reason, hint = "", None
    for detail in status_pb2.Status.FromString(call.trailers["grpc-status-details-bin"]).details:
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(retry):
            hint = retry.retry_delay.ToMilliseconds()
    return reason, hint


async def test_an_idle_captioner_sends_nobody_away_to_wait() -> None:
    """Whose sessions that share the device are slower than those that have it to themselves: 13 ms against 26 ms."""
    graphs = Graphs()
    graphs.free.set()
    device = Device("test", 2, Clock())

    def group(run: Any, sizes: tuple[int, ...]) -> AnyInstanceGroup:
        alone, shared = (SessionPool(run, LatencyTable(dict.fromkeys(sizes, ns))) for ns in (1e6, 2e6))
        return InstanceGroup(alone, shared, 2)

    engine = CaptionEngine(
        spec(),
        group(graphs.encode, (1, 2)),
        group(graphs.step, (1, 2, 4, 8)),
        host_slots(8, [np.zeros((1, 1), np.int64)], [np.zeros((1, 1), np.int64)]),
        device,
        Metrics().model("m", 1),
        max_queue_rows=8,
    )
    options = DecodeOptions(min_tokens=12, max_tokens=12)
    try:
        with pytest.raises(DeadlineUnreachable):
            engine.reserve(CaptionCost(1, options), deadline_ns=12_000_000)
        with engine.reserve(CaptionCost(1, options), deadline_ns=20_000_000), pytest.raises(WaitTooLong):
            engine.reserve(CaptionCost(1, options), deadline_ns=20_000_000)
        assert len((await caption(engine, picture(1), options, deadline_ns=20_000_000)).ranked) == 1
    finally:
        engine.close()
        device.close()
