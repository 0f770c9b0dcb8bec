"""Videos through the real server: whole and streamed, good and bad."""

import io
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image
from resonnx_proto.v1 import vision_pb2 as pb
from resonnx_proto.v1 import vision_pb2_grpc

from ....running import RunningServer
from ... import clip_model
from ...clip_model import LABELS, clip, gif, logits_of


@pytest.fixture
def vision(video_server: RunningServer) -> Iterator[vision_pb2_grpc.VisionStub]:
    with grpc.insecure_channel(video_server.grpc) as channel:
        yield vision_pb2_grpc.VisionStub(channel)


def png(frame: np.ndarray) -> bytes:
    written = io.BytesIO()
    Image.fromarray(frame).save(written, "PNG")
    return written.getvalue()


def encoded(frames: np.ndarray) -> pb.VideoFrames:
    return pb.VideoFrames(images=[pb.Image(encoded=png(frame)) for frame in frames])


def raw(frame: np.ndarray) -> pb.Image:
    return pb.Image(raw=pb.Image.Raw(rgb=frame.tobytes(), width=frame.shape[1], height=frame.shape[0]))


def scores(answer: pb.ClassifyVideoResponse | pb.ClassifyVideoStreamResponse) -> np.ndarray:
    assert [LABELS[each.index] for each in answer.predictions] == [each.label for each in answer.predictions]
    found = {each.label: each.score for each in answer.predictions}
    return np.array([found[label] for label in LABELS])


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def streamed(
    vision: vision_pb2_grpc.VisionStub, model: str, frames: np.ndarray, **first: object
) -> list[pb.ClassifyVideoStreamResponse]:
    requests = [pb.ClassifyVideoStreamRequest(model=model, id="s", image=raw(frames[0]), **first)]  # type: ignore[arg-type]
    requests += [pb.ClassifyVideoStreamRequest(image=pb.Image(encoded=png(frame))) for frame in frames[1:]]
    return list(vision.ClassifyVideoStream(iter(requests), timeout=30))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_clip_gets_the_models_answer_from_files_and_from_pixels(
    vision: vision_pb2_grpc.VisionStub, bidirectional: bool
) -> None:
    model, version = ("motions", "both-ways")[bidirectional], clip_model.files(bidirectional=bidirectional)
    for frames in (clip(1), clip(7), clip(64)):
        expected = softmax(logits_of(version, frames))
        mixed = pb.VideoFrames(
            images=[raw(each) if i % 2 else pb.Image(encoded=png(each)) for i, each in enumerate(frames)]
        )
        for video in (encoded(frames), mixed):
            answer = vision.ClassifyVideo(pb.ClassifyVideoRequest(model=model, frames=video, id="a"), timeout=30)
            np.testing.assert_allclose(scores(answer), expected, atol=1e-5)
            assert (answer.model, answer.version, answer.id) == (model, 1, "a")
            assert answer.frames_read == list(range(len(frames)))
            assert answer.timing.compute_us > 0


def test_a_clip_is_read_from_a_file(vision: vision_pb2_grpc.VisionStub) -> None:
    frames = clip(12)
    answer = vision.ClassifyVideo(pb.ClassifyVideoRequest(model="motions", clip=gif(frames)), timeout=30)
    np.testing.assert_allclose(scores(answer), softmax(logits_of(clip_model.files(), frames)), atol=1e-5)
    assert answer.frames_read == list(range(12))
    assert answer.timing.decode_us > 0


def test_a_streamed_clip_has_the_answers_of_its_beginnings(vision: vision_pb2_grpc.VisionStub) -> None:
    frames, version = clip(9), clip_model.files()
    answers = streamed(vision, "motions", frames)
    assert [(each.frames_read, each.frame, each.is_final) for each in answers] == [
        *((count, count - 1, False) for count in range(1, 10)),
        (9, 8, True),
    ]
    for answer in answers:
        np.testing.assert_allclose(scores(answer), softmax(logits_of(version, frames[: answer.frames_read])), atol=1e-6)
        assert answer.id == "s"
    # Whole and streamed are the same.
    whole = vision.ClassifyVideo(pb.ClassifyVideoRequest(model="motions", frames=encoded(frames)), timeout=30)
    np.testing.assert_allclose(scores(answers[-1]), scores(whole), atol=1e-6)
    few = streamed(vision, "motions", frames, answer_every=4, top_k=2)
    assert [(each.frames_read, each.is_final, len(each.predictions)) for each in few] == [
        (4, False, 2),
        (8, False, 2),
        (9, True, 2),
    ]


def test_a_model_of_both_directions_answers_at_the_end(vision: vision_pb2_grpc.VisionStub) -> None:
    frames = clip(5)
    (answer,) = streamed(vision, "both-ways", frames)
    expected = softmax(logits_of(clip_model.files(bidirectional=True), frames))
    np.testing.assert_allclose(scores(answer), expected, atol=1e-6)
    assert (answer.is_final, answer.frames_read) == (True, 5)
    with pytest.raises(grpc.RpcError) as refused:
        streamed(vision, "both-ways", clip(65))
    assert "65 frames to read, more than 64 (max_frames)" in refused.value.details()


def test_a_stream_that_can_go_on_for_ever_is_longer_than_any_clip(vision: vision_pb2_grpc.VisionStub) -> None:
    answers = streamed(vision, "motions", clip(130), answer_every=1000)
    assert [each.frames_read for each in answers] == [130]


@pytest.mark.parametrize(
    ("request_", "field", "message"),
    [
        (pb.ClassifyVideoRequest(model="motions"), "frames.images", "there are no frames"),
        (
            pb.ClassifyVideoRequest(model="motions", frames=encoded(clip(65))),
            "frames.images",
            "65 frames to read, more than 64 (max_frames)",
        ),
        (
            pb.ClassifyVideoRequest(
                model="motions", frames=pb.VideoFrames(images=[*encoded(clip(3)).images, pb.Image(encoded=b"x")])
            ),
            "frames.images[3].encoded",
            "",
        ),
        (
            pb.ClassifyVideoRequest(model="motions", frames=pb.VideoFrames(images=[raw(clip(1)[0]), pb.Image()])),
            "frames.images[1]",
            "neither encoded nor raw is set",
        ),
        (
            pb.ClassifyVideoRequest(
                model="motions", frames=pb.VideoFrames(images=[raw(clip(1)[0])], times_s=[0.0, 1.0])
            ),
            "frames.times_s",
            "2 times of 1 frames",
        ),
        (
            pb.ClassifyVideoRequest(
                model="motions", frames=pb.VideoFrames(images=[raw(clip(1)[0])] * 2, times_s=[2.0, 1.0])
            ),
            "frames.times_s[1]",
            "below the time before it",
        ),
        (pb.ClassifyVideoRequest(model="motions", clip=b"no video"), "clip", "animated GIF and WebP"),
        (pb.ClassifyVideoRequest(model="motions", clip=gif(clip(65))), "clip", "at most 64"),
        (pb.ClassifyVideoRequest(model="motions", frames=encoded(clip(1)), top_k=6), "top_k", "6 is not within 0..5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_video_is_refused_by_the_name_of_what_is_wrong(
    vision: vision_pb2_grpc.VisionStub, request_: pb.ClassifyVideoRequest, field: str, message: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        vision.ClassifyVideo(request_, timeout=30)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in refused.value.details()
    assert _violation(refused.value) == field


def _violation(error: grpc.RpcError) -> str:
    status = rpc_status.from_call(error)
    bad = error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(bad)
    return bad.field_violations[0].field


def test_a_bad_frame_ends_its_stream_by_its_number(vision: vision_pb2_grpc.VisionStub) -> None:
    good = [pb.ClassifyVideoStreamRequest(model="motions", image=raw(frame)) for frame in clip(3)]
    bad = pb.ClassifyVideoStreamRequest(image=pb.Image(encoded=b"no picture"))
    with pytest.raises(grpc.RpcError) as refused:
        list(vision.ClassifyVideoStream(iter([*good, bad, *good]), timeout=30))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details().startswith("frame 3: image.encoded: ")


def test_a_frame_that_misses_its_timeout_ends_its_stream(vision: vision_pb2_grpc.VisionStub) -> None:
    with pytest.raises(grpc.RpcError) as late:
        streamed(vision, "motions", clip(3), timeout_us=1)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_models_of_features_take_no_pictures(vision: vision_pb2_grpc.VisionStub) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        vision.ClassifyVideo(pb.ClassifyVideoRequest(model="numbers", frames=encoded(clip(2))), timeout=30)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(grpc.RpcError) as refused:
        streamed(vision, "numbers", clip(2))
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_nothing_is_left_of_what_was_asked(video_server: RunningServer) -> None:
    video_server.lets_go()
    assert "Traceback" not in video_server.log.read_text()
