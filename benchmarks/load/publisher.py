"""Changes a classifier in a served repository again and again: good versions, and three kinds that are refused."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Final

import grpc
import numpy as np
import onnx
from onnx import numpy_helper
from resonnx_proto.inference import grpc_service_pb2 as oip_pb
from resonnx_proto.inference import grpc_service_pb2_grpc as oip_grpc
from resonnx_server.runtime.model_files.golden_examples import dump_golden, parse_golden
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE, GOLDEN, SUMS, sha256sums

# Good versions, each with another best class.
_ANSWERS: Final = 4
# Beyond any other logit, relative to the largest of the golden examples.
_LEAD: Final = 4.0
# Longest wait for a change to be taken.
_LONGEST_S: Final = 120.0
_LOOK_S: Final = 0.02

# From when an answer was possible, until when one was, and its class.
Change = tuple[float, float, int]


def write_variant(source: Path, folder: Path, answer: int, *, lies: bool = False) -> Path:
    """Write a copy of a classifier's version whose best class is always `answer`; return its folder.

    Args:
        source: The version's folder, as resonnx-export writes it.
        folder: The copy's; it must not exist.
        answer: A class.
        lies: Leave the golden examples as they are, so that it is refused.
    """
    shutil.copytree(source, folder)
    model = onnx.load(source / CLASSIFIER_FILE)
    golden = parse_golden((source / GOLDEN).read_bytes())
    assert golden.logits is not None
    (last,) = (node for node in model.graph.node if "logits" in node.output)
    if last.op_type != "Gemm":
        raise ValueError(f"{source}: the logits are of a {last.op_type}, not of a Gemm with a bias")
    (bias,) = (each for each in model.graph.initializer if each.name == last.input[2])
    added = np.zeros_like(golden.logits[0])
    added[answer] = _LEAD * np.abs(golden.logits).max()
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + added, bias.name))
    (folder / CLASSIFIER_FILE).write_bytes(model.SerializeToString())
    if not lies:
        (folder / GOLDEN).write_bytes(dump_golden(replace(golden, logits=golden.logits + added)))
    listed = [line.split(maxsplit=1)[1].lstrip("*") for line in (source / SUMS).read_text().splitlines()]
    (folder / SUMS).write_bytes(sha256sums({name: (folder / name).read_bytes() for name in listed}))
    return folder


class Publisher:
    """Publishes versions by renames of folders of links: copies would take the disk and a processor from the server.

    Args:
        source: A version's folder.
        staged: An empty folder on the same file system.
        model: The model's folder in the repository, which gets its first version here.

    Attributes:
        changes: Good versions: from when each may have answered, until when.
        taken: Changes that were taken or refused, as they should be.
    """

    def __init__(self, source: Path, staged: Path, model: Path) -> None:
        self._model, self._staged = model, staged
        good = [write_variant(source, staged / f"good-{answer}", answer) for answer in range(_ANSWERS)]
        self._good = cycle(enumerate(good))
        lies = write_variant(source, staged / "lies", 0, lies=True)
        missing, corrupt = (Path(shutil.copytree(good[0], staged / name)) for name in ("missing", "corrupt"))
        (missing / SUMS).unlink()
        content = bytearray((corrupt / CLASSIFIER_FILE).read_bytes())
        content[len(content) // 2] ^= 1
        (corrupt / CLASSIFIER_FILE).write_bytes(content)
        self._bad = [
            (lies, "disagree with the golden"),
            (missing, "SHA256SUMS is missing"),
            (corrupt, "is damaged"),
        ]
        self._version = self.taken = 0
        self.changes: list[Change] = []
        self._place()
        self.changes.append((0.0, float("inf"), self._answer))

    async def run(self, address: str, answered: Callable[[], Awaitable[int]], until: Callable[[], bool]) -> None:
        """Publish good, lying, incomplete and corrupt versions in turns until `until` holds.

        Args:
            address: The server's, HOST:PORT.
            answered: Asks for the class that is answered now.
            until: Asked after each change.
        """
        async with grpc.aio.insecure_channel(address) as channel:
            self._stub = oip_grpc.GRPCInferenceServiceStub(channel)
            while True:
                for step in (self._publish, *(self._refusing(*bad) for bad in self._bad)):
                    await step(answered)
                    self.taken += 1
                    if until():
                        return

    async def _publish(self, answered: Callable[[], Awaitable[int]]) -> None:
        began, before = time.monotonic(), self._version
        self._place()

        async def is_taken() -> bool:
            return await answered() == self._answer

        await _until(is_taken)
        since, _, answer = self.changes[-1]
        self.changes[-1] = since, time.monotonic(), answer
        self.changes.append((began, float("inf"), self._answer))
        shutil.rmtree(self._model / str(before))

    def _refusing(self, folder: Path, reason: str) -> Callable[[Callable[[], Awaitable[int]]], Awaitable[None]]:
        async def refuse(_: Callable[[], Awaitable[int]]) -> None:
            number = self._version + 1
            self._link(folder, number)

            async def is_told() -> bool:
                return reason in (await self._index()).get(str(number), "")

            async def is_gone() -> bool:
                return str(number) not in await self._index()

            await _until(is_told)
            shutil.rmtree(self._model / str(number))
            await _until(is_gone)

        return refuse

    def _place(self) -> None:
        self._answer, folder = next(self._good)
        self._version += 1
        self._link(folder, self._version)

    def _link(self, folder: Path, number: int) -> None:
        new = self._model / ".new"
        shutil.copytree(folder, new, copy_function=lambda source, target: Path(target).hardlink_to(source))
        new.rename(self._model / str(number))

    async def _index(self) -> dict[str, str]:
        models = (await self._stub.RepositoryIndex(oip_pb.RepositoryIndexRequest(), timeout=20)).models
        return {each.version: each.reason for each in models}


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_LONGEST_S):
        while not await condition():  # noqa: ASYNC110  # the server is asked
            await asyncio.sleep(_LOOK_S)
