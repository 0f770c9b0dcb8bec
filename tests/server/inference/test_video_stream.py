"""A stream's state: charged while it is open, of one version, and with the model's sampling."""

from collections.abc import AsyncIterator
from unittest.mock import Mock

import pytest
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import InvalidInput, NotSupported, Unavailable
from resonnx_server.inference.model import Model
from resonnx_server.inference.registry import Models
from resonnx_server.inference.requests import Inference
from resonnx_server.inference.tasks import VIDEO
from resonnx_server.inference.videos.sampled import sampled, sampling_of
from resonnx_server.inference.videos.stream import VideoStream
from resonnx_server.memory.budget import Budget
from resonnx_server.observe.metrics import Metrics
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool
from resonnx_server.video.engine import VideoEngine, VideoSessions

from .. import clip_model

_Sampling = pb.VideoClassifierSpec.Sampling
TIME = _Sampling(rule=_Sampling.RULE_TIME, frames_per_second=10)
EVERY = _Sampling(rule=_Sampling.RULE_EVERY, n=3)
UNIFORM = _Sampling(rule=_Sampling.RULE_UNIFORM, n=4)


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    """A model whose sessions nobody runs."""
    device, group = Device("test", 0), InstanceGroup.single(SessionPool(Mock(), LatencyTable({1: 1e6})))
    sessions = VideoSessions(group, group, group, table_frames=1, feature_size=clip_model.FEATURES, max_frames=64)
    stats = Metrics().model("m", 1)
    made = Mock(spec=Model, task=VIDEO, version=1, manifest=clip_model.files().manifest, sessions=(), stats=stats)
    made.name, made.engine = "m", VideoEngine(sessions, device, stats, max_queue_rows=100)
    yield made
    made.engine.close()
    device.close()


def inference_of(*models: Model) -> Inference:
    registry = Models()
    for each in models:
        registry.add(each)
    return Inference(registry, Mock(), Budget(1 << 28))


async def test_states_are_charged_while_the_stream_is_open(model: Model) -> None:
    inference = inference_of(model)
    with VideoStream(inference, model, "someone"):
        # Two states of 8 floats.
        assert inference.budget.used == 2 * 8 * 4
        assert model.engine.streams == 1  # type: ignore[attr-defined]
    assert inference.budget.used == model.engine.streams == 0  # type: ignore[attr-defined]


async def test_a_stream_of_a_version_that_serves_no_more_ends(model: Model) -> None:
    inference = inference_of(model)
    stream = VideoStream(inference, model, "")
    stream.request(1, "")
    inference.models.forget(model.name, model.version)
    with pytest.raises(Unavailable, match="begin a new stream"):
        stream.request(1, "")


async def test_frames_of_a_stream_are_sampled_as_those_of_a_clip(model: Model) -> None:
    assert model.manifest is not None
    spec = model.manifest.video_classifier
    times = [0.0, 0.04, 0.1, 0.11, 0.19, 0.2, 0.41, 0.45]
    for sampling in (TIME, EVERY):
        spec.sampling.CopyFrom(sampling)
        stream = VideoStream(inference_of(model), model, "")
        turns = [turn for each in times if (turn := stream.turn(each)) is not None]
        assert [turn.index for turn in turns] == sampled(sampling_of(spec), len(times), times, "times_s")
        assert [turn.number for turn in turns] == [*range(1, len(turns) + 1)]
        assert len(turns) < len(times)
    spec.sampling.CopyFrom(UNIFORM)
    assert sampled(sampling_of(spec), 8, (), "times_s") == [1, 3, 5, 7]
    with pytest.raises(NotSupported, match="4 frames of a video, spread over its length"):
        VideoStream(inference_of(model), model, "")


async def test_a_model_that_samples_by_time_needs_times_that_ascend(model: Model) -> None:
    assert model.manifest is not None
    spec = model.manifest.video_classifier
    spec.sampling.CopyFrom(TIME)
    stream = VideoStream(inference_of(model), model, "")
    with pytest.raises(InvalidInput, match="frame 0 has none; the model samples by time"):
        stream.turn(None)
    stream.turn(2.0)
    for wrong in (1.9, float("nan"), float("inf")):
        with pytest.raises(InvalidInput, match="of frame 1 is not finite, or before the last frame's"):
            stream.turn(wrong)
    with pytest.raises(InvalidInput, match="0 times of 3 frames; the model samples by time"):
        sampled(sampling_of(spec), 3, (), "frames.times_s")
