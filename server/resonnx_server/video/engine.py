"""The engine of a video classifier: frames are encoded, and clips of features, or single frames of streams, classified.

    clip ──► frames: encoder.onnx ──► features ──┬──► clips: sequence.onnx ──► logits
                                                 └──► steps: step.onnx, with the stream's states ──► logits, states

Each is a workload of the device with a queue of its own. Frames of all clips and streams share batches of the encoder,
clips of similar lengths those of sequence.onnx, and frames of all streams those of step.onnx. A request is admitted at
the first of them. In the others it waits since the same moment, so that what has begun ends first.

Few frames of a long clip wait at a time. So a clip holds room for 16 of its frames at most (or the largest batch, if
that is larger): the queue's limit bounds the clips that wait, and the memory budget their frames.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self

from resonnx_server.observe.stats import ModelStats
from resonnx_server.scheduling.deadline_admission import Decoding, Objective
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.queue import QueueReservation
from resonnx_server.scheduling.queue_policy import QueuePolicies
from resonnx_server.scheduling.replacement import Event
from resonnx_server.scheduling.session_pool import TensorInstanceGroup
from resonnx_server.scheduling.sharing import DEFAULT_PRIORITY
from resonnx_server.tensors.engine import TensorCost, TensorEngine
from resonnx_server.video.clips import ClipEngine
from resonnx_server.video.stages import Stages

# Of the stages after the first, whose requests were admitted at that.
_UNLIMITED: Final = 1 << 40
# Most rows of the queue's limit that a clip takes, if batches are no larger.
_CLIP_ROOM: Final = 16


@dataclass(frozen=True)
class VideoSessions:
    """The sessions of a video classifier and what a row of each takes.

    Attributes:
        frames: Of encoder.onnx, by frames; None for a model of given features.
        clips: Of sequence.onnx, by clips of `table_frames` frames.
        steps: Of step.onnx, by streams; None if the model has none.
        table_frames: See ClipEngine.
        feature_size: D of the features.
        max_frames: The longest clip.
        frame_bytes: Bytes of a frame and its features.
        step_bytes: Bytes of a stream's states before and after a step.
    """

    frames: TensorInstanceGroup | None
    clips: TensorInstanceGroup
    steps: TensorInstanceGroup | None
    table_frames: int
    feature_size: int
    max_frames: int
    frame_bytes: int = 0
    step_bytes: int = 0


@dataclass(slots=True)
class VideoReservation:
    """The reservations of a request in the queues that it goes through; a context manager as they are.

    Attributes:
        frames: Of the encoder; None for given features.
        later: Of its clips in sequence.onnx, or of its frame in step.onnx.
    """

    frames: QueueReservation | None
    later: QueueReservation
    # Ends both, the first stage's last: it learns how long the whole took.
    _stack: ExitStack

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def wait_at_most(self, max_wait_ns: int) -> None:
        """Limit the wait in the first queue; 0 is its priority's limit."""
        (self.frames or self.later).max_wait_ns = max_wait_ns


class VideoEngine(Stages):
    """One video classifier's work on a device.

    Args:
        sessions: Its sessions.
        device: Runs the jobs.
        stats: The model's counters: of batches of frames or, for given features, of clips.
        max_queue_rows: Room of the queue: frames, of which a clip counts 16 or so at most; for given features, clips.
        max_queue_delay_us: Longest wait of the oldest frame, or clip, for a fuller batch.
        objective: The model's latency objective, if it has one.
        run_timeout_s: Longest run of a graph; None to derive it from the latencies.
        policies: Limits of waiting by priority.

    Attributes:
        frames: Encodes frames; None for given features.
        clips: Classifies clips of features.
        steps: Classifies streams frame by frame; None for models that need whole clips.
        max_frames: The longest clip.
        feature_size: D of the features.
        streams: Streams of frames that are open.
        drift: None: there is no reference of clips.
    """

    drift: None = None
    comparison_processor_ns = 0
    streams = 0

    def __init__(
        self,
        sessions: VideoSessions,
        device: Device,
        stats: ModelStats,
        *,
        max_queue_rows: int,
        max_queue_delay_us: int = 0,
        objective: Objective | None = None,
        run_timeout_s: float | None = None,
        policies: QueuePolicies | None = None,
    ) -> None:
        self.device, self.stats, self.policies = device, stats, policies
        self._max_queue_rows = max_queue_rows
        stats.has_several_runs = sessions.frames is not None
        self.max_frames, self.feature_size = sessions.max_frames, sessions.feature_size
        self._on_event: Callable[[Event], None] = lambda _: None
        first: dict[str, Any] = {
            "max_queue_rows": max_queue_rows,
            "max_queue_delay_us": max_queue_delay_us,
            "objective": objective,
            "policies": policies,
            "run_timeout_s": run_timeout_s,
        }
        unshed = None if objective is None else replace(objective, shed=False)
        later: dict[str, Any] = {"max_queue_rows": _UNLIMITED, "objective": unshed, "run_timeout_s": run_timeout_s}
        self.frames: TensorEngine | None = None
        if sessions.frames is not None:
            self.frames = TensorEngine(
                sessions.frames, device, stats, finite=True, row_bytes=sessions.frame_bytes, **first
            )
        self.clip_stats = stats if self.frames is None else ModelStats()
        self.clips = ClipEngine(
            sessions.clips,
            device,
            self.clip_stats,
            table_frames=sessions.table_frames,
            feature_size=sessions.feature_size,
            max_frames=sessions.max_frames,
            **(first if self.frames is None else later),
        )
        self.step_stats = ModelStats()
        self.steps: TensorEngine | None = None
        if sessions.steps is not None:
            self.steps = TensorEngine(
                sessions.steps, device, self.step_stats, finite=True, row_bytes=sessions.step_bytes, **later
            )
        self._stages = tuple(stage for stage in (self.frames, self.clips, self.steps) if stage is not None)

    def reserve(
        self,
        lengths: Sequence[int],
        deadline_ns: int | None = None,
        priority: int = DEFAULT_PRIORITY,
        decoding: Decoding | None = None,
        caller: str = "",
    ) -> VideoReservation:
        """Admit a request of clips and reserve room for them; errors and other arguments as of Engine.reserve.

        Args:
            lengths: Frames of each clip.
            deadline_ns: Monotonic deadline.
            priority: 1 (first) to PRIORITY_LEVELS.
            decoding: Predicted decoding time of the frames; None if there are none to decode.
            caller: Whose request it is.
        """

        def predict() -> tuple[float, float]:
            own_ns = self.clips.clips_ns(lengths)
            ahead_ns = self.clips.ahead_ns(priority, caller, len(lengths))
            if self.frames is not None:
                own_ns += self.frames.own_ns(sum(lengths))
                ahead_ns += self.frames.ahead_ns(priority, caller, sum(lengths))
            return own_ns, ahead_ns

        cost = TensorCost(len(lengths), predict=predict)
        if self.frames is not None:
            most = min(max(_CLIP_ROOM, self.frames.instance_group.table.largest), self._max_queue_rows)
            cost = TensorCost(sum(lengths), predict=predict, room=sum(min(length, most) for length in lengths))
        return self._reserve(self.clips, cost, len(lengths), deadline_ns, priority, decoding, caller)

    def reserve_step(
        self,
        deadline_ns: int | None = None,
        priority: int = DEFAULT_PRIORITY,
        decoding: Decoding | None = None,
        caller: str = "",
    ) -> VideoReservation:
        """Admit a frame of a stream; arguments and errors as of `reserve`. The model must have `steps`."""
        steps = self.steps
        assert steps is not None

        def predict() -> tuple[float, float]:
            own_ns, ahead_ns = steps.own_ns(1), steps.ahead_ns(priority, caller, 1)
            if self.frames is not None:
                own_ns += self.frames.own_ns(1)
                ahead_ns += self.frames.ahead_ns(priority, caller, 1)
            return own_ns, ahead_ns

        return self._reserve(steps, TensorCost(1, predict=predict), 1, deadline_ns, priority, decoding, caller)

    def _reserve(
        self,
        later: TensorEngine,
        cost: TensorCost,
        rows: int,
        deadline_ns: int | None,
        priority: int,
        decoding: Decoding | None,
        caller: str,
    ) -> VideoReservation:
        with ExitStack() as stack:
            first = None
            if self.frames is not None:
                first = stack.enter_context(self.frames.reserve(cost, deadline_ns, priority, decoding, caller))
                # The first has looked at the deadline.
                second = stack.enter_context(later.reserve(TensorCost(rows), None, priority, None, caller))
                second.deadline_ns = deadline_ns
            else:
                second = stack.enter_context(later.reserve(cost, deadline_ns, priority, decoding, caller))
            second.since_ns = self.device.clock()
            return VideoReservation(first, second, stack.pop_all())

    # What the registry, the metrics and the life of versions ask of any engine: see inference/model.py.

    @property
    def on_event(self) -> Callable[[Event], None]:
        """See Engine.on_event."""
        return self._on_event

    @on_event.setter
    def on_event(self, call: Callable[[Event], None]) -> None:
        self._on_event = call
        for stage in self._stages:
            stage.on_event = call

    def queued(self) -> int:
        """Return the number of queued entries: parts of clips whose frames wait, clips, and frames of streams."""
        return sum(stage.queued() for stage in self._stages)

    def queued_rows(self) -> int:
        """Return the number of frames that wait; for given features, of clips."""
        return self._stages[0].queued_rows()

    def later_stages(self) -> Iterator[tuple[str, ModelStats]]:
        """Yield the stages after the first by name, with the counters of their batches."""
        if self.frames is not None:
            yield "sequence", self.clip_stats
        if self.steps is not None:
            yield "step", self.step_stats
