"""Classifies clips, for every front: a reservation in the queues, then frames, then the models."""

from collections.abc import Sequence
from typing import Final, NamedTuple, cast

import numpy as np

from resonnx_server.errors import InvalidInput
from resonnx_server.inference.many import all_of
from resonnx_server.inference.pictures import AnyPictures
from resonnx_server.inference.registry import Model
from resonnx_server.inference.requests import ActiveRequest
from resonnx_server.observe.stats import Timing
from resonnx_server.runtime.session import Array
from resonnx_server.runtime.video.clips import Clips
from resonnx_server.runtime.video.graphs import FEATURES, LENGTHS, LOGITS
from resonnx_server.scheduling.queue import QueueReservation
from resonnx_server.tensors.engine import TensorEngine
from resonnx_server.video.activation import probabilities
from resonnx_server.video.engine import VideoEngine

# Of a feature, and of what the recurrent network is given of it.
_FEATURE_BYTES: Final = 2 * 4


class Classified(NamedTuple):
    """Logits and probabilities float32 [N,K] of clips."""

    logits: Array
    probabilities: Array


def video_engine(model: Model) -> VideoEngine:
    """Return the engine of a model whose task is to classify videos."""
    return cast(VideoEngine, model.engine)


def check_frames(model: Model, frames: int, field: str) -> None:
    """Raise InvalidInput unless a clip of so many frames, after sampling, can be classified; errors name `field`."""
    most = video_engine(model).max_frames
    if frames < 1:
        raise InvalidInput(field, "there are no frames")
    if frames > most:
        raise InvalidInput(field, f"{frames} frames to read, more than {most} (max_frames)")


async def classify_clips(request: ActiveRequest, frames: AnyPictures | Array, lengths: Sequence[int]) -> Classified:
    """Return the classes of a request's clips.

    Args:
        request: A request of a video classifier.
        frames: The frames of all clips, one clip after the other: pictures, or given features float32 [F,D].
        lengths: Frames of each clip, whose sum is F.

    Raises:
        BadImage: A frame cannot be decoded.
        ServerError: As Engine.reserve and Engine.submit.
    """
    found, request.timing = await request.in_time(_classify(request, frames, lengths))
    return found


async def _classify(
    request: ActiveRequest, frames: AnyPictures | Array, lengths: Sequence[int]
) -> tuple[Classified, Timing]:
    engine, model = video_engine(request.model), request.model
    request.rows = sum(lengths)
    request.hold(request.rows * engine.feature_size * _FEATURE_BYTES)
    decoding = None if isinstance(frames, np.ndarray) else await request.decoding(frames)
    with engine.reserve(lengths, request.deadline_ns, request.priority, decoding, request.caller) as reservation:
        reservation.wait_at_most(request.max_wait_ns)
        encoding = None
        if engine.frames is None:
            assert isinstance(frames, np.ndarray)
            features = frames
        else:
            assert reservation.frames is not None
            assert not isinstance(frames, np.ndarray)
            pixels = await request.pixels(frames)
            features, encoding = await encode(engine.frames, pixels, reservation.frames)
            # They may be large, and are not needed any more.
            del pixels, frames
        clips = Clips(features, np.array(lengths, np.int64))
        works = (engine.clips.submit(_inputs(each), reservation.later) for each in clips)
        found = [await next(works)] if len(lengths) == 1 else await all_of(works)
    logits = np.concatenate([outputs[LOGITS] for outputs, _ in found])
    last = max((timing for _, timing in found), key=lambda timing: timing.end_ns)
    return classified(model, logits), times_of(encoding or [], last)


def classified(model: Model, logits: Array) -> Classified:
    """Return logits [N,K], which are copied, with their probabilities."""
    assert model.manifest is not None
    own = logits.copy()
    return Classified(own, probabilities(own, model.manifest.video_classifier.activation))


def _inputs(features: Array) -> dict[str, Array]:
    return {FEATURES: features[np.newaxis], LENGTHS: np.array([len(features)], np.int64)}


async def encode(engine: TensorEngine, pixels: Array, reservation: QueueReservation) -> tuple[Array, list[Timing]]:
    """Return the features float32 [F,D] of frames uint8 [F,H,W,3], and the times of their parts.

    A part is what a batch holds. Few parts of a clip wait at a time, so that the frames of a long clip and those of
    clips that came after it share the device by turns.
    """
    size, at_once = engine.instance_group.table.preferred_batch_size, engine.instance_group.max_concurrent_batches + 1
    if len(pixels) <= size:
        outputs, timing = await engine.submit({"image": pixels}, reservation)
        return outputs[FEATURES], [timing]
    starts = range(0, len(pixels), size)
    found: list[Array] = [np.empty(0)] * len(starts)
    timings: list[Timing] = []
    left = iter(enumerate(starts))

    async def encode_some() -> None:
        for number, start in left:
            outputs, timing = await engine.submit({"image": pixels[start : start + size]}, reservation)
            # A copy: a view would keep the features of the whole batch.
            found[number] = outputs[FEATURES].copy()
            timings.append(timing)

    await all_of([encode_some() for _ in range(min(at_once, len(starts)))])
    return np.concatenate(found), timings


def times_of(encoding: list[Timing], last: Timing) -> Timing:
    """Return the times of a request: its wait for the first batch, its runs, and what lies between these.

    Args:
        encoding: The times of its frames; empty for given features.
        last: Those of its last run.
    """
    if not encoding:
        return last
    first = min(encoding, key=lambda timing: timing.start_ns)
    parts = (*encoding, last)
    input_ns, infer_ns, output_ns = (sum(timing[phase] for timing in parts) for phase in (1, 2, 3))
    whole_ns, runs_ns = last.end_ns - first.start_ns, input_ns + infer_ns + output_ns
    if runs_ns > whole_ns:
        # Parts ran beside each other: the time is theirs together.
        input_ns, output_ns = last.compute_input_ns, last.compute_output_ns
        infer_ns = whole_ns - input_ns - output_ns
    between_ns = whole_ns - input_ns - infer_ns - output_ns
    return Timing(first.queue_ns, input_ns, infer_ns, output_ns, encoding[-1].batch_rows, first.start_ns, between_ns)
