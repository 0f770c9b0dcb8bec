"""Classifies a video while its frames come. Event loop only.

Frames are decoded and encoded as they come, several of a stream at a time; step.onnx reads them in order, with the
states that the frame before left. A model without step.onnx needs the whole clip: its features are kept to the end.

A stream holds memory of the budget between its frames, but no version: when its version no longer serves, it ends.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import numpy as np

from resonnx_server.errors import InvalidInput, NotSupported, Unavailable
from resonnx_server.inference.pictures import Pictures
from resonnx_server.inference.registry import Model
from resonnx_server.inference.requests import ActiveRequest, Inference
from resonnx_server.inference.videos.clips import Classified, classified, encode, times_of, video_engine
from resonnx_server.inference.videos.sampled import sampling_of
from resonnx_server.memory.budget import Charge
from resonnx_server.observe.requests.identity import IDENTITY
from resonnx_server.observe.spans.of_requests import begin_span
from resonnx_server.observe.spans.tracer import tracer
from resonnx_server.observe.stats import Timing
from resonnx_server.preprocessing.clips.sampling import Rule, Sampler
from resonnx_server.runtime.session import Array
from resonnx_server.runtime.video.graphs import FEATURES, LENGTHS, LOGITS
from resonnx_server.tensors.engine import TensorCost

_FLOAT_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Turn:
    """A frame that the model reads, in its place among the others of the stream.

    Attributes:
        index: Among all frames that were sent, from 0.
        number: Among those that are read, from 1.
        before: Set when the frame before has been read.
        done: Set when it has been read itself.
    """

    index: int
    number: int
    before: asyncio.Event
    done: asyncio.Event


class VideoStream:
    """The state of one stream of frames; its memory is charged until the block ends.

    Args:
        inference: The use cases.
        model: A video classifier whose input are pictures.
        caller: Whose stream it is.

    Attributes:
        latest: Classes after the latest frame that was read; None before.
        last: The latest frame that is read; None before.

    Raises:
        NotSupported: The model's frames can be chosen only once the video's length is known.
    """

    def __init__(self, inference: Inference, model: Model, caller: str) -> None:
        assert model.manifest is not None
        self.model, self._inference, self._caller = model, inference, caller
        self._spec = model.manifest.video_classifier
        sampling = sampling_of(self._spec)
        if sampling.needs_count:
            raise NotSupported(
                f"model {model.name!r} reads {sampling.n} frames of a video, spread over its length, which a stream "
                "does not tell. Send the whole clip (ClassifyVideo)"
            )
        self._sampler, self._needs_times = Sampler(sampling), sampling.rule is Rule.TIME
        self._engine = video_engine(model)
        self._states = {state.name: np.zeros((1, *state.shape), np.float32) for state in self._spec.states}
        self._features: list[Array] = []
        self._charge = Charge(inference.budget, caller)
        self._count = 0
        self._before_s: float | None = None
        self._read = asyncio.Event()
        self._read.set()
        self.latest: Classified | None = None
        self.last: Turn | None = None

    @property
    def is_stepwise(self) -> bool:
        """Whether there are classes after each frame, and not at the end only."""
        return self._engine.steps is not None

    def __enter__(self) -> Self:
        """Charge the states. Raises MemorySpent."""
        self._charge.resize(sum(state.nbytes for state in self._states.values()))
        self._engine.streams += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.streams -= 1
        self._charge.release()

    def turn(self, time_s: float | None) -> Turn | None:
        """Return the next frame's turn; None if the model does not read it.

        Args:
            time_s: The frame's time in seconds; None if it has none.

        Raises:
            InvalidInput: It needs a time, or one that is not before the last; or the stream is longer than its model's
                clips, and the model has no step.
        """
        if self._needs_times and time_s is None:
            raise InvalidInput("time_s", f"frame {self._count} has none; the model samples by time")
        if time_s is not None and not (self._before_s or 0.0) <= time_s < np.inf:
            raise InvalidInput("time_s", f"{time_s:g} of frame {self._count} is not finite, or before the last frame's")
        index, self._before_s = self._count, time_s
        self._count += 1
        if not self._sampler.takes(time_s or 0.0):
            return None
        number = 1 if self.last is None else self.last.number + 1
        if not self.is_stepwise and number > self._engine.max_frames:
            most = f"{number} frames to read, more than {self._engine.max_frames} (max_frames)"
            raise InvalidInput("image", f"{most}; the model reads clips as a whole")
        self.last = Turn(index, number, self._read, asyncio.Event())
        self._read = self.last.done
        return self.last

    def request(self, size: int, identifier: str) -> ActiveRequest:
        """Return a request for one frame of `size` bytes. Raises Unavailable if the version serves no more.

        Lines of the log and errors name it by `identifier`, the stream's own, if that is not empty.
        """
        model = self.model
        if identifier and (identity := IDENTITY.get()) is not None:
            identity.given = identifier
        if not self._inference.models.serves(model):
            raise Unavailable(f"version {model.version} of model {model.name!r} serves no more; begin a new stream")
        trace = None
        if self._inference.traces.is_on:
            trace = self._inference.traces.begin(model.name, model.version, self._inference.frontend)
        request = ActiveRequest(model, self._inference.decoder, self._inference.budget, size, self._caller, trace)
        if tracer.is_on:
            provider = str(model.sessions[0].candidate)
            request.span = begin_span(model.task.name, model.name, model.version, provider, self._caller)
        return request

    async def read(self, request: ActiveRequest, frame: Pictures, turn: Turn) -> Classified | None:
        """Read a frame in its turn; return the classes of the frames so far, None if the model needs the whole clip.

        Raises:
            BadImage: It cannot be decoded.
            ServerError: As Engine.reserve and Engine.submit.
        """
        found, request.timing = await request.in_time(self._read_frame(request, frame, turn))
        return found

    async def _read_frame(
        self, request: ActiveRequest, frame: Pictures, turn: Turn
    ) -> tuple[Classified | None, Timing]:
        engine, request.rows = self._engine, 1
        assert engine.frames is not None
        decoding = await request.decoding(frame)
        limits = request.deadline_ns, request.priority, decoding, request.caller
        if engine.steps is None:
            with engine.frames.reserve(TensorCost(1), *limits) as reservation:
                features, (timing,) = await encode(engine.frames, await request.pixels(frame), reservation)
                await turn.before.wait()
                self._charge.resize(self._charge.nbytes + engine.feature_size * _FLOAT_BYTES)
                self._features.append(features.copy())
                turn.done.set()
                return None, timing
        with engine.reserve_step(*limits) as reserved:
            assert reserved.frames is not None
            features, encoding = await encode(engine.frames, await request.pixels(frame), reserved.frames)
            await turn.before.wait()
            outputs, timing = await engine.steps.submit({FEATURES: features, **self._states}, reserved.later)
        # Copies: views would keep the states of all streams of the batch.
        self._states = {name: outputs[f"next_{name}"].copy() for name in self._states}
        self.latest = classified(self.model, outputs[LOGITS])
        turn.done.set()
        return self.latest, times_of(encoding, timing)

    async def finish(self, request: ActiveRequest) -> Classified:
        """Return the classes of the whole clip, once all frames have been read: for a model that needs it whole."""
        found, request.timing = await request.in_time(self._finish(request))
        return found

    async def _finish(self, request: ActiveRequest) -> tuple[Classified, Timing]:
        clips, count = self._engine.clips, len(self._features)
        request.rows = count
        # Joined, and padded in its batch.
        request.hold(2 * count * self._engine.feature_size * _FLOAT_BYTES)
        with clips.reserve(TensorCost(1), request.deadline_ns, request.priority, None, request.caller) as reservation:
            inputs = {FEATURES: _joined(self._features), LENGTHS: np.array([count], np.int64)}
            outputs, timing = await clips.submit(inputs, reservation)
        self.latest = classified(self.model, outputs[LOGITS])
        return self.latest, timing


def _joined(features: Sequence[Array]) -> Array:
    return np.concatenate(features)[np.newaxis]
