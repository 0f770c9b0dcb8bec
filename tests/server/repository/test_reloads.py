"""Reloads under open-loop load: no request fails, each answer is of a version that served when it was sent.

The long form prints its figures: `pytest -m slow -s tests/server/repository/test_reloads.py`.
"""

import asyncio
import os
import random
import re
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

import grpc
import numpy as np
import pytest
from resonnx_proto.inference import grpc_service_pb2 as oip_pb
from resonnx_proto.inference import grpc_service_pb2_grpc as oip_grpc
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc

from .. import answering

_SIDE = answering.SIDE
_RAW = vision_pb2.Image.Raw(rgb=bytes(_SIDE**2 * 3), width=_SIDE, height=_SIDE)
_REQUEST = vision_pb2.ClassifyRequest(model="m", image={"raw": _RAW}, top_k=1)
_TENSOR = oip_pb.ModelInferRequest(model_name="m", raw_input_contents=[bytes(_SIDE**2 * 3)])
_TENSOR.inputs.add(name="image", datatype="UINT8", shape=[1, _SIDE, _SIDE, 3])
_TENSOR.outputs.add(name="logits")


@dataclass
class Load:
    """Open-loop load and what came of it.

    Attributes:
        answers: When each request was sent and answered, and the class that it was answered with.
        failures: Of requests.
    """

    address: str
    answers: list[tuple[float, float, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def run(self, rate: float, over: asyncio.Event) -> None:
        """Send `rate` requests a second from 8 clients until `over`: five unary, one of tensors, two streams."""
        kinds = [self._unary] * 5 + [self._tensors] + [self._stream] * 2
        await asyncio.gather(*(self._client(kind, rate / len(kinds), over) for kind in kinds))

    async def _client(self, kind: Callable[..., Awaitable[None]], rate: float, over: asyncio.Event) -> None:
        async with grpc.aio.insecure_channel(self.address) as channel:
            await kind(channel, rate, over)

    async def _send(self, ask: Callable[[], Awaitable[int]], rate: float, over: asyncio.Event) -> None:
        under_way: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while not over.is_set():
            due += random.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._one(ask))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    async def _one(self, ask: Callable[[], Awaitable[int]]) -> None:
        sent = time.monotonic()
        try:
            answer = await ask()
        except grpc.RpcError as error:
            self.failures.append(str(error))
        else:
            self.answers.append((sent, time.monotonic(), answer))

    async def _unary(self, channel: grpc.aio.Channel, rate: float, over: asyncio.Event) -> None:
        stub = vision_pb2_grpc.VisionStub(channel)

        async def ask() -> int:
            answer = await stub.Classify(_REQUEST, timeout=20)
            return answer.predictions[0].index

        await self._send(ask, rate, over)

    async def _tensors(self, channel: grpc.aio.Channel, rate: float, over: asyncio.Event) -> None:
        stub = oip_grpc.GRPCInferenceServiceStub(channel)

        async def ask() -> int:
            answer = await stub.ModelInfer(_TENSOR, timeout=20)
            return int(np.frombuffer(answer.raw_output_contents[0], np.float32).argmax())

        await self._send(ask, rate, over)

    async def _stream(self, channel: grpc.aio.Channel, rate: float, over: asyncio.Event) -> None:
        sent: dict[str, float] = {}

        async def requests() -> AsyncIterator[vision_pb2.ClassifyRequest]:
            due, number = time.monotonic(), 0
            while not over.is_set():
                due += random.expovariate(rate)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                number += 1
                request = vision_pb2.ClassifyRequest(model="m", image={"raw": _RAW}, top_k=1, id=str(number))
                sent[request.id] = time.monotonic()
                yield request

        async for answer in vision_pb2_grpc.VisionStub(channel).ClassifyStream(requests()):
            if answer.HasField("error"):
                self.failures.append(str(answer.error))
            else:
                now = time.monotonic()
                self.answers.append((sent.pop(answer.id), now, answer.response.predictions[0].index))
        self.failures += [f"{identity} was not answered" for identity in sent]

    def p99_ms(self, since: float, until: float) -> float:
        """Return the 99th percentile of the times of requests that were sent within a time."""
        return float(np.percentile([1e3 * (end - sent) for sent, end, _ in self.answers if since <= sent < until], 99))


@dataclass(frozen=True)
class Process:
    """The memory in MB, threads and descriptors of a process."""

    memory: float
    threads: int
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> "Process":
        status = Path(f"/proc/{pid}/status").read_text()
        numbers = {name: value.split()[0] for name, value in re.findall(r"(\w+):\s*(\d.*)", status)}
        return cls(int(numbers["VmRSS"]) / 1024, int(numbers["Threads"]), len(os.listdir(f"/proc/{pid}/fd")))


# From when an answer was possible, from when it was the only one, and the answer.
Change = tuple[float, float, int]


class Publisher:
    """Changes the model in the repository by renames of folders that were written before.

    Args:
        repository: The repository.
        staged: Where the folders are written.
        rounds: Of four changes: a good one and three that are refused.
        channel: To the server.
    """

    def __init__(self, repository: Path, staged: Path, rounds: int, channel: grpc.aio.Channel) -> None:
        self._model = repository / "m"
        self._vision = vision_pb2_grpc.VisionStub(channel)
        self._oip = oip_grpc.GRPCInferenceServiceStub(channel)
        self._version = self._answer = 1
        self.changes: list[Change] = [(0.0, 0.0, 1)]
        answers = [turn % (answering.CLASSES - 1) + 2 for turn in range(rounds)]
        self._good = [(answering.stage(staged / f"good-{answer}", answer), answer) for answer in answers]
        bad = [
            ("disagree with the golden", answering.stage(staged / "lies", 0, lies=True)),
            ("SHA256SUMS is missing", answering.stage(staged / "missing", 0)),
            ("is damaged", answering.stage(staged / "corrupt", 0, corrupt=True)),
        ]
        (staged / "missing" / "SHA256SUMS").unlink()
        self._bad = bad

    async def run(self) -> None:
        """Publish all."""
        for turn, (staged, answer) in enumerate(self._good):
            await self._publish(staged, answer, another=bool(turn % 2))
            for reason, folder in self._bad:
                await self._refuse(folder, reason)

    async def _publish(self, staged: Path, answer: int, *, another: bool) -> None:
        """Publish files with another answer: another version, or the same with other files."""
        before = self._model / str(self._version)
        self._version += another
        self._answer = answer
        began = time.monotonic()
        answering.put(staged, self._model / str(self._version))
        await _until(self._is_answered)
        self.changes.append((began, time.monotonic(), answer))
        if another:
            shutil.rmtree(before)

    async def _refuse(self, folder: Path, reason: str) -> None:
        """Publish a version that is refused, and take it back."""
        tried = self._model / str(self._version + 1)
        answering.put(folder, tried)
        await _until(partial(self._is_told, tried.name, reason))
        answering.put(tried, folder)
        await _until(partial(self._is_gone, tried.name))

    async def _is_answered(self) -> bool:
        answer = await self._vision.Classify(_REQUEST, timeout=20)
        return answer.predictions[0].index == self._answer

    async def _is_told(self, version: str, reason: str) -> bool:
        return reason in (await self._index()).get(version, "")

    async def _is_gone(self, version: str) -> bool:
        return version not in await self._index()

    async def _index(self) -> dict[str, str]:
        models = (await self._oip.RepositoryIndex(oip_pb.RepositoryIndexRequest(), timeout=20)).models
        return {each.version: each.reason for each in models}


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("steps", "rate"), [(8, 100), pytest.param(200, 300, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
async def test_reloads_under_load(start_server, tmp_path: Path, steps: int, rate: float) -> None:
    repository = tmp_path / "models"
    answering.write(repository / "m" / "1", 1)
    with start_server(repository, "--control-mode", "poll", "--poll-interval-s", "0.1") as server:
        load, end = Load(server.grpc), asyncio.Event()
        async with grpc.aio.insecure_channel(server.grpc) as channel:
            publisher = Publisher(repository, tmp_path / "staged", steps // 4, channel)
            running = asyncio.create_task(load.run(rate, end))
            await asyncio.sleep(2 if steps < 100 else 10)
            before, began = Process.of(server.process.pid), time.monotonic()
            first = next(iter(load.answers))[0]
            await publisher.run()
            ended = time.monotonic()
            end.set()
            await running
            await asyncio.sleep(0.5)
        after = Process.of(server.process.pid)
        assert load.failures == []
        possible = {answer: since for since, _, answer in publisher.changes}
        over = {before[2]: after[1] for before, after in pairwise(publisher.changes)}
        for sent, answered, answer in load.answers:
            assert answered > possible[answer], "answered by a version before there was one"
            assert sent < over.get(answer, np.inf), "sent after another version had taken its place"
        p99 = load.p99_ms(first + 1, began), load.p99_ms(began, ended)
        print(
            f"{len(load.answers)} answers, {steps} changes in {ended - began:.1f} s; p99 ms {p99[0]:.1f} {p99[1]:.1f}"
        )
        print(before, after, sep="\n")
        assert after.memory <= before.memory + 50
        assert after.threads <= before.threads + 1
        assert after.descriptors <= before.descriptors + 1
        counted = server.metric("nv_inference_request_success", model="m")
        assert counted >= len(load.answers)
