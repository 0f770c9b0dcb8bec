"""Streams of frames: many at once, half of them cancelled, leave nothing; and they end when their version does."""

import asyncio

import grpc
import numpy as np
import pytest
from resonnx_proto.v1 import vision_pb2 as pb
from resonnx_proto.v1 import vision_pb2_grpc

from ....running import RunningServer
from ...clip_model import LABELS, clip, files, logits_of

_AT_ONCE = 32


def _frame(frame: np.ndarray, **first: object) -> pb.ClassifyVideoStreamRequest:
    raw = pb.Image.Raw(rgb=frame.tobytes(), width=frame.shape[1], height=frame.shape[0])
    return pb.ClassifyVideoStreamRequest(image=pb.Image(raw=raw), **first)  # type: ignore[arg-type]


async def _streams(server: RunningServer, count: int) -> int:
    """Run streams of 1 to 12 frames, cancel every second one after some answers; return the number of whole ones."""
    expected = {length: int(logits_of(files(), clip(length)).argmax()) for length in range(1, 13)}
    limit, whole = asyncio.Semaphore(_AT_ONCE), 0
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        vision = vision_pb2_grpc.VisionStub(channel)

        async def one(number: int) -> None:
            nonlocal whole
            frames = clip(1 + number % 12)
            async with limit:
                call = vision.ClassifyVideoStream(timeout=60)
                await call.write(_frame(frames[0], model="motions", id=str(number)))
                if number % 2:
                    # Before, amid and after the answer to the first frame.
                    for _ in range(number % 3):
                        await call.read()
                        if len(frames) > 1:
                            await call.write(_frame(frames[1]))
                        else:
                            break
                    call.cancel()
                    return
                for frame in frames[1:]:
                    await call.write(_frame(frame))
                await call.done_writing()
                answers = [answer async for answer in call]
                assert [answer.frames_read for answer in answers] == [*range(1, len(frames) + 1), len(frames)]
                assert answers[-1].is_final
                assert answers[-1].predictions[0].label == LABELS[expected[len(frames)]]
                whole += 1

        await asyncio.gather(*(one(number) for number in range(count)))
    return whole


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
async def test_cancelled_streams_leave_nothing(video_server: RunningServer, count: int) -> None:
    assert await _streams(video_server, count) == count // 2
    video_server.lets_go()
    assert video_server.metric("resonnx_video_streams", model="motions") == 0
    assert video_server.metric("resonnx_video_runs_total", stage="step") > 0
    assert "Traceback" not in video_server.log.read_text()


def test_stages_of_clips_add_up_to_their_time(video_server: RunningServer) -> None:
    with grpc.insecure_channel(video_server.grpc) as channel:
        vision = vision_pb2_grpc.VisionStub(channel)
        frames = pb.VideoFrames(images=[_frame(each).image for each in clip(40)])
        for _ in range(3):
            vision.ClassifyVideo(pb.ClassifyVideoRequest(model="both-ways", frames=frames), timeout=30)
    stages = video_server.metric("resonnx_request_stage_seconds_total", model="both-ways")
    whole = video_server.metric("resonnx_request_duration_seconds_sum", model="both-ways")
    assert stages == pytest.approx(whole, rel=1e-6)
    assert video_server.metric("resonnx_video_run_rows_total", model="both-ways", stage="sequence") >= 3
