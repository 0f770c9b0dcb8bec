"""MP4 and WebM files through the real server."""

import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from PIL import Image
from resonnx_proto.v1 import vision_pb2 as pb
from resonnx_proto.v1 import vision_pb2_grpc

from ....running import RunningServer
from ... import clip_model
from ...preprocessing.clips.video_files import frames_of, noise, video


@pytest.fixture
def vision(video_server: RunningServer) -> Iterator[vision_pb2_grpc.VisionStub]:
    with grpc.insecure_channel(video_server.grpc) as channel:
        yield vision_pb2_grpc.VisionStub(channel)


@pytest.mark.parametrize("format", ["mp4", "webm"])
def test_a_video_gets_the_answer_of_its_frames(vision: vision_pb2_grpc.VisionStub, format: str) -> None:
    file = video(noise(9, (64, 48)), format)
    answer = vision.ClassifyVideo(pb.ClassifyVideoRequest(model="motions", clip=file), timeout=30)
    assert answer.frames_read == list(range(9))
    assert answer.timing.decode_us > 0
    # The model's recipe: stretched, bilinear.
    side = (clip_model.SIDE, clip_model.SIDE)
    shown = np.stack([np.asarray(each.resize(side, Image.Resampling.BILINEAR)) for each in frames_of(file)])
    logits = clip_model.logits_of(clip_model.files(), shown)
    assert answer.predictions[0].index == logits.argmax()
    powers = np.exp(logits - logits.max())
    expected = np.sort(powers / powers.sum())[::-1]
    np.testing.assert_allclose([each.score for each in answer.predictions], expected, atol=1e-3)


def test_reading_a_videos_packets_counts_as_decoding(vision: vision_pb2_grpc.VisionStub) -> None:
    request = pb.ClassifyVideoRequest(model="motions", clip=video(noise(2, (64, 48))))
    shares = []
    # Both child processes are all that takes long, and take about as long as each other.
    while max(shares, default=0) < 0.8 and len(shares) < 5:
        began_s = time.monotonic()
        answer = vision.ClassifyVideo(request, timeout=30)
        shares.append(answer.timing.decode_us / 1e6 / (time.monotonic() - began_s))
    assert 0.8 < max(shares) <= 1


def test_a_requests_timeout_ends_the_reading_of_a_videos_packets(
    video_server: RunningServer, vision: vision_pb2_grpc.VisionStub
) -> None:
    request = pb.ClassifyVideoRequest(model="motions", clip=video(noise(2, (64, 48))), timeout_us=3000)
    with pytest.raises(grpc.RpcError) as late:
        vision.ClassifyVideo(request, timeout=30)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # A child process starts in far more: afterwards, it would be the prediction that does not fit.
    assert late.value.details().startswith("the request's timeout passed before the answer was complete")
    video_server.lets_go()
