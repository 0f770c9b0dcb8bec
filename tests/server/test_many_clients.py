"""64 clients on 64 connections: every answer belongs to its own picture, and they share batches."""

import asyncio

import grpc
import numpy as np
import pytest
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc

CLIENTS, REQUESTS = 64, 12
# Each channel of one process its own connection.
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


@pytest.fixture(scope="module")
def pictures(demo_server) -> tuple[list[np.ndarray], np.ndarray]:
    """Random pictures, and the server's features of each when asked alone: unlike for every two pictures."""
    with grpc.insecure_channel(demo_server.grpc) as channel:
        vision = vision_pb2_grpc.VisionStub(channel)
        recipe = vision.GetModel(vision_pb2.GetModelRequest(model="digits")).manifest.input
        rng = np.random.default_rng(11)
        pixels = [rng.integers(0, 256, (recipe.height, recipe.width, 3), dtype=np.uint8) for _ in range(CLIENTS)]
        features = [list(vision.Classify(_request(p), timeout=20).features) for p in pixels]
    return pixels, np.array(features)


def _request(pixels: np.ndarray) -> vision_pb2.ClassifyRequest:
    height, width, _ = pixels.shape
    raw = {"rgb": pixels.tobytes(), "width": width, "height": height}
    return vision_pb2.ClassifyRequest(model="digits", image={"raw": raw}, return_features=True)


async def test_answers_belong_to_their_pictures_and_batches_are_shared(demo_server, pictures) -> None:
    pixels, expected = pictures
    nearest_other = min(np.abs(expected[i] - expected[j]).max() for i in range(CLIENTS) for j in range(i))
    before = [demo_server.metric(f"nv_inference_{name}", model="digits") for name in ("count", "exec_count")]
    channels = [grpc.aio.insecure_channel(demo_server.grpc, options=OPTIONS) for _ in range(CLIENTS)]
    # Serialized before and parsed after: 64 clients in one process must not be slower than the server.
    requests = [_request(p).SerializeToString() for p in pixels]
    answers: dict[tuple[int, int], bytes] = {}

    async def client(number: int) -> None:
        classify = channels[number].unary_unary("/resonnx.v1.Vision/Classify")
        for turn in range(REQUESTS):
            answers[number, turn] = await classify(requests[_which(number, turn)], timeout=60)

    try:
        await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))
    for (number, turn), answer in answers.items():
        features = np.array(vision_pb2.ClassifyResponse.FromString(answer).features)
        assert np.abs(features - expected[_which(number, turn)]).max() < nearest_other / 4
    after = [demo_server.metric(f"nv_inference_{name}", model="digits") for name in ("count", "exec_count")]
    count, executions = after[0] - before[0], after[1] - before[1]
    assert count == CLIENTS * REQUESTS
    assert count / executions >= 8, f"mean batch size {count / executions:.1f}"


def _which(number: int, turn: int) -> int:
    return (number + 7 * turn) % CLIENTS
