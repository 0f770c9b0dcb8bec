"""Thousands of caption requests of all kinds to a real server at once: each answer is what decoding it alone gives.

The mixture: greedy, beams of 2 to 10, sampling; lengths, forced beginnings, forbidden words; unary and streamed;
pictures of the demo's kind and noise.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import cache, partial
from pathlib import Path

import grpc
import numpy as np
import pytest
from resonnx_export.demo import samples
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc
from resonnx_proto.v1.manifest_pb2 import CaptionerSpec
from resonnx_server.runtime.model_files.manifest import parse_manifest

from ...plain_decoding import Decoded, PlainDecoder
from ...waiting import until

CLIENTS = 8
UNDER_WAY = 25
"""Requests of one client."""
NEAR_TIE = 1e-4
"""Log-probability (for draws: probability) below which rounding may decide."""
MOST_NEAR_TIES = 0.001
"""Share of captions that near-ties may make differ."""

Answer = vision_pb2.CaptionResponse
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Requests:
    """Requests by number, and what their answers must be.

    Args:
        folder: The captioner's version folder.
        spec: Its manifest's.
    """

    def __init__(self, folder: Path, spec: CaptionerSpec) -> None:
        self._spec = spec
        self._alone = PlainDecoder(folder, spec)
        noise = np.random.default_rng(3).integers(0, 256, (40, 96, 96, 3), np.uint8)
        self._pictures = [*(scene.image for scene in samples.scenes(3, 160)), *noise]
        self._cached = cache(self._decode)

    def request(self, number: int) -> vision_pb2.CaptionRequest:
        """One as some caller might make it."""
        rng = random.Random(number)
        spec = self._spec
        picture = self._pictures[number % len(self._pictures)]
        request = vision_pb2.CaptionRequest(model="scenes")
        request.image.raw.rgb = picture.tobytes()
        request.image.raw.height, request.image.raw.width, _ = picture.shape
        words = [word for i, word in enumerate(spec.vocabulary) if i != spec.end_id]
        if rng.random() < 0.5:
            request.max_tokens = rng.randrange(1, spec.max_tokens + 1)
        most = request.max_tokens or spec.max_tokens
        if rng.random() < 0.4:
            request.min_tokens = rng.randrange(most + 1)
        if rng.random() < 0.15:
            request.forbidden_words[:] = rng.sample(words, rng.randrange(1, 21))
        if rng.random() < 0.15:
            request.prefix[:] = rng.choices(words, k=rng.randrange(min(4, most)))
        kind = rng.random()
        if kind < 0.25:
            request.temperature, request.seed = rng.uniform(0.3, 2), rng.getrandbits(64)
            request.top_k = rng.choice([0, 0, 3, 20])
            request.top_p = rng.choice([0, 0, 0.6, 0.9])
        elif kind < 0.7:
            request.beam_width = rng.randrange(2, 11)
            request.num_captions = rng.randrange(1, request.beam_width + 1)
        else:
            request.beam_width = 1
        return request

    def wishes(self, number: int) -> str:
        """A request without its picture, to be read."""
        request = self.request(number)
        request.ClearField("image")
        return str(request)

    def alone(self, number: int) -> Decoded:
        """Decode a request without any company."""
        return self._cached(number)

    def _decode(self, number: int) -> Decoded:
        return self._alone.decode(self._pictures[number % len(self._pictures)], self.request(number))

    def agrees(self, number: int, answer: Answer) -> bool:
        """Whether an answer's captions have the tokens and scores that they have alone."""
        hidden = {self._spec.end_id, *self._spec.stripped_ids}
        expected = self.alone(number).captions
        found = [[word.token for word in caption.words] for caption in answer.captions]
        return found == [[token for token in tokens if token not in hidden] for tokens, _ in expected] and np.allclose(
            [caption.log_prob for caption in answer.captions], [total for _, total in expected], rtol=0, atol=1e-3
        )


@pytest.fixture(scope="module")
def requests(demo_repository: Path) -> Requests:
    folder = demo_repository / "scenes" / "1"
    return Requests(folder, parse_manifest((folder / "manifest.json").read_bytes()).captioner)


@pytest.fixture
def tell(
    request: pytest.FixtureRequest, record_property, capsys: pytest.CaptureFixture[str]
) -> Callable[[str, object], None]:
    """Write a figure where whoever runs the tests sees it."""

    def tell(name: str, value: object) -> None:
        record_property(name, value)
        with capsys.disabled():
            print(f"\n{request.node.name}: {name}: {value}", end="")

    return tell


async def test_2000_mixed_requests_have_the_captions_that_they_have_alone(
    start_server, demo_repository, requests, tell
):
    count = 2000
    with start_server(demo_repository) as server:
        answers = await _ask_all(server, range(count), partial(_ask, requests))
        assert server.metric("resonnx_decoder_wasted_rows_total", model="scenes") > 0
        steps = server.metric("resonnx_decoder_steps_total", model="scenes")
        tokens = server.metric("resonnx_caption_tokens_total", model="scenes")
    assert tokens / steps > 4, "captions share steps"
    _compare(requests, answers, tell)
    assert len(answers) == count


async def test_half_of_10000_requests_are_cancelled_and_nothing_is_left_of_them(
    start_server, demo_repository, requests, tell
):
    """At random moments: before, while and after they are decoded."""
    with start_server(demo_repository) as server:
        resident = []
        answers: dict[int, Answer] = {}
        for batch in (range(2500), range(2500, 10_000)):
            answers |= await _ask_all(server, batch, partial(_ask_or_leave, requests))
            await until(lambda: server.metric("resonnx_requests_in_progress", model="scenes") == 0)
            await _check_slots(server, requests)
            resident.append(server.metric("process_resident_memory_bytes") / 2**20)
        cancelled = server.metric("nv_inference_request_failure", model="scenes", reason="CANCELED")
    tell("cancelled on the server", int(cancelled))
    tell("resident MiB after 2,500 and 10,000 requests", [round(mib, 1) for mib in resident])
    assert cancelled > 2000
    assert resident[1] - resident[0] < 20
    _compare(requests, answers, tell)
    assert set(answers) >= set(range(0, 10_000, 2)), "whoever did not leave was answered"


async def _ask_all(
    server, numbers: range, ask: Callable[[vision_pb2_grpc.VisionStub, int], Awaitable[Answer | None]]
) -> dict[int, Answer]:
    """Let clients on connections of their own ask, at random moments; return the answers by number."""
    answers: dict[int, Answer] = {}

    async def client(own: range) -> None:
        rng = random.Random(own.start)
        room = asyncio.Semaphore(UNDER_WAY)
        options = [("grpc.use_local_subchannel_pool", 1)]

        async def one(number: int) -> None:
            async with room:
                if (answer := await ask(stub, number)) is not None:
                    answers[number] = answer

        async with grpc.aio.insecure_channel(server.grpc, options=options) as channel, asyncio.TaskGroup() as group:
            stub = vision_pb2_grpc.VisionStub(channel)
            for number in own:
                group.create_task(one(number))
                await asyncio.sleep(rng.expovariate(200))

    await asyncio.gather(*(client(numbers[first::CLIENTS]) for first in range(CLIENTS)))
    return answers


async def _ask(requests: Requests, stub: vision_pb2_grpc.VisionStub, number: int) -> Answer:
    request = requests.request(number)
    if number % 3:
        return await stub.Caption(request, timeout=60)
    *words, last = [event async for event in stub.StreamCaption(request, timeout=60)]
    assert [event.word for event in words] == list(last.final.captions[0].words)
    return last.final


async def _ask_or_leave(requests: Requests, stub: vision_pb2_grpc.VisionStub, number: int) -> Answer | None:
    asking = asyncio.ensure_future(_ask(requests, stub, number))
    if number % 2:
        await asyncio.wait([asking], timeout=random.Random(number).uniform(0, 0.2))
        asking.cancel()
    try:
        return await asking
    except asyncio.CancelledError:
        return None


async def _check_slots(server, requests: Requests) -> None:
    """A caption without company has each step for itself: a row more would be one that nobody gave back."""
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        stub = vision_pb2_grpc.VisionStub(channel)
        # The first one's steps carry what the cancelled have not told yet.
        await stub.Caption(_greedy(requests), timeout=60)
        names = ("resonnx_decoder_step_rows_sum", "resonnx_decoder_step_rows_count")
        before = [server.metric(name, model="scenes") for name in names]
        await stub.Caption(_greedy(requests), timeout=60)
        rows, steps = (server.metric(name, model="scenes") - was for name, was in zip(names, before, strict=True))
        assert rows == steps > 0
    assert server.metric("resonnx_decoder_slots_used", model="scenes") == 0


def _greedy(requests: Requests) -> vision_pb2.CaptionRequest:
    image = requests.request(0).image
    return vision_pb2.CaptionRequest(model="scenes", image=image, beam_width=1)


def _compare(requests: Requests, answers: dict[int, Answer], tell: Callable[[str, object], None]) -> None:
    """Fail on every answer that differs from decoding alone, but for a few near-ties, which are told."""
    found = Counter()
    for number, answer in answers.items():
        is_near = requests.alone(number).margin < NEAR_TIE
        found["near-ties"] += is_near
        if not requests.agrees(number, answer):
            assert is_near, f"request {number} differs, and no decision was near: {requests.wishes(number)}"
            found["differ"] += 1
    tell("captions compared", len(answers))
    tell("with a near-tie", found["near-ties"])
    tell("differ, all by a near-tie", found["differ"])
    assert found["differ"] <= MOST_NEAR_TIES * len(answers)
