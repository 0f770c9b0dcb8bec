"""The engine's steps against one ONNX graph that loops by itself: greedy captions a second, in one process.

    python benchmarks/caption_loop.py [--model lstm_int8 | attention_int8] [--rounds 5] [--seconds 1.5] [--json FILE]

Decoding alone: pictures are encoded before. Both decode the same captions, of 6 to 18 tokens, 11 on average, on the CPU
provider in fp32 with all cores. `graph` and `engine` answer so many together and then begin anew; `engine, joining`
has so many under way all the time, as one that leaves makes room for the next, which a graph cannot do. They take turns
in each round, and a ratio is to the graph of the same round. Exit status 1 if a token differs.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import numpy as np
from captioners.decoders import EncodedPictures, captioner_files, number, open_graphs, random_pictures
from captioners.load import LENGTHS, WEIGHTS
from captioners.loop_graph import whole_loop
from reports.rounds import Rounds
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.captioning.engine import CaptionEngine
from resonnx_server.captioning.request import CaptionCost, CaptionTask, CaptionWork
from resonnx_server.captioning.slots import Slots, host_slots
from resonnx_server.observe.metrics import Metrics
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.model_files.manifest import DECODER_FILE
from resonnx_server.runtime.session import CPU, Array, Candidate, Session
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import measure, sizes_up_to
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool

_BATCHES: Final = (1, 8, 32)
# As many as the largest batch divides.
_CAPTIONS: Final = 96
_WAYS: Final = ("graph", "engine", "engine, joining")

# What a way decoded: tokens by caption.
Decoded = dict[int, list[int]]


class Captions:
    """The captions that all ways decode, over and over: picture i, of at most `lengths[i]` tokens."""

    def __init__(self, pictures: EncodedPictures, spec: pb.CaptionerSpec) -> None:
        rng = random.Random(0)
        self.pictures, self.spec = pictures, spec
        self.lengths = rng.choices(LENGTHS, WEIGHTS, k=len(pictures))


class Graph:
    """Decodes by the looping graph."""

    def __init__(self, captions: Captions, decoder: bytes) -> None:
        self._captions = captions
        graph = whole_loop(decoder, captions.spec.end_id)
        self._session = Session(graph, Candidate(CPU, pb.PRECISION_FP32), usable_cores())

    def decode(self, batch: range) -> Decoded:
        """Decode a batch of captions."""
        captions = self._captions
        pictures, end = captions.pictures, captions.spec.end_id
        chosen = list(batch)
        limits = np.array(captions.lengths)[chosen]
        begun = np.empty((0, len(chosen)), np.int64)
        if pictures.first_log_probs is None:
            tokens = np.full(len(chosen), captions.spec.start_id)
        else:
            tokens = pictures.first_log_probs[chosen].argmax(axis=1)
            begun = tokens[np.newaxis]
        feeds = {"first_token": tokens, "max_tokens": limits - len(begun)}
        feeds |= {f"first_state_{i}": state[chosen] for i, state in enumerate(pictures.state)}
        feeds |= {f"feature_{i}": feature[chosen] for i, feature in enumerate(pictures.features)}
        out = self._session.run(feeds)
        decoded = {}
        for row, sequence in enumerate(np.concatenate([begun, out["tokens"]]).T.tolist()):
            sequence = sequence[: limits[row]]
            decoded[chosen[row]] = sequence[: sequence.index(end) + 1] if end in sequence else sequence
        return decoded


class Engine:
    """Decodes by the server's engine, on a lane of its own."""

    def __init__(self, captions: Captions, device: Device) -> None:
        pictures = captions.pictures
        slots: Slots[CaptionTask, Array] = host_slots(max(_BATCHES), pictures.state, pictures.features)
        sizes = sizes_up_to(slots.capacity)
        steps = measure(lambda rows: pictures.step(*slots.inputs(rows)), sizes)
        self._captions = captions
        self._engine = CaptionEngine(
            captions.spec,
            # Looking up costs nothing.
            InstanceGroup.single(SessionPool(pictures.encode, LatencyTable(dict.fromkeys(sizes, 1.0)))),
            InstanceGroup.single(SessionPool(pictures.step, LatencyTable.of(steps.costs))),
            slots,
            device,
            Metrics().model("benchmark", 1),
            max_queue_rows=len(pictures),
        )

    async def decode(self, batch: range) -> Decoded:
        """Decode a batch of captions."""
        return dict(await asyncio.gather(*(self._caption(i) for i in batch)))

    async def decode_joining(self, batch: range) -> Decoded:
        """Decode all captions, as many at once as the batch has, beginning with it."""
        order = iter([(batch.start + i) % _CAPTIONS for i in range(_CAPTIONS)])
        decoded: Decoded = {}

        async def client() -> None:
            for i in order:
                _, decoded[i] = await self._caption(i)

        await asyncio.gather(*(client() for _ in batch))
        return decoded

    async def _caption(self, i: int) -> tuple[int, list[int]]:
        options = DecodeOptions(max_tokens=self._captions.lengths[i])
        with self._engine.reserve(CaptionCost(1, options)) as reservation:
            captioned = await self._engine.submit(CaptionWork(number(i), options), reservation)
        return i, [token.id for token in captioned.ranked[0][0].tokens]

    def close(self) -> None:
        """End it."""
        self._engine.close()


async def run(captions: Captions, decoder: bytes, rounds: int, seconds: float) -> tuple[Rounds, int]:
    """Measure; return the figures and how many captions were not the same everywhere."""
    device = Device("benchmark")
    graph, engine = Graph(captions, decoder), Engine(captions, device)

    async def looped(batch: range) -> Decoded:
        return graph.decode(batch)

    ways = dict(zip(_WAYS, (looped, engine.decode, engine.decode_joining), strict=True))
    figures = Rounds("at once", "captions/s")
    expected: Decoded = {}
    differing: set[int] = set()
    for batch in _BATCHES:
        for way in ways.values():
            for begin in range(0, _CAPTIONS, batch):
                for i, tokens in (await way(range(begin, begin + batch))).items():
                    if expected.setdefault(i, tokens) != tokens:
                        differing.add(i)
    for _ in range(rounds):
        for batch in _BATCHES:
            for name, way in ways.items():
                figures.add(str(batch), name, value=await _rate(way, batch, seconds))
    engine.close()
    device.close()
    return figures, len(differing)


async def _rate(way: Callable[[range], Awaitable[Decoded]], batch: int, seconds: float) -> float:
    """Return captions a second. Begins where a batch of every size does, and goes through all captions."""
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds or done % _CAPTIONS:
        begin = done % _CAPTIONS
        done += len(await way(range(begin, begin + batch)))
    return done / spent


def main() -> int:
    """Measure and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lstm_int8", help="see random_models/captioners.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="for one way and batch, at least")
    parser.add_argument("--json", type=Path, help="write every round's figures")
    given = parser.parse_args()
    files = captioner_files(given.model)
    pictures = EncodedPictures(open_graphs(files), random_pictures(files, _CAPTIONS))
    captions = Captions(pictures, files.manifest.captioner)
    figures, differing = asyncio.run(run(captions, files.files[DECODER_FILE], given.rounds, given.seconds))
    figures.show({(str(batch), way): (str(batch), "graph") for batch in _BATCHES for way in _WAYS[1:]})
    print(f"{given.model}: {differing} of {_CAPTIONS} captions differ")
    if given.json:
        figures.write(given.json, model=given.model, captions=_CAPTIONS, differing=differing)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
