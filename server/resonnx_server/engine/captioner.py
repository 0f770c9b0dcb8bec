"""Decodes captions of many callers together: sequences join after their encoding and leave at their end token.

    submit ──► waiting ──encode──► joining ──┐
                                             ▼
                            slots: every step runs all rows ──► finished ──► caller

One job at a time, encoding or a step: both use the whole device, and the step owns the slots. pacing.py says which
goes first, caption_jobs.py is what a lane does.
"""

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

from resonnx_proto.v1.manifest_pb2 import CaptionerSpec

from resonnx_server.engine.admission import DeadlineAdmission, Objective
from resonnx_server.engine.batcher import DEFAULT_PRIORITY, Batcher, Entry
from resonnx_server.engine.caption_jobs import EncodeJob, StepJob
from resonnx_server.engine.caption_task import Captioned, CaptionTask, Encoded, Events, OnWords
from resonnx_server.engine.device import Device, Job
from resonnx_server.engine.latency import LatencyTable
from resonnx_server.engine.pacing import CaptionPolicy, Load, pacing
from resonnx_server.engine.place import Place
from resonnx_server.engine.slot_rows import SlotRows
from resonnx_server.engine.staging import Staging
from resonnx_server.errors import Unavailable
from resonnx_server.observe.stats import ModelStats
from resonnx_server.runtime.beams import BeamSearch
from resonnx_server.runtime.graphs import Captioner, D
from resonnx_server.runtime.greedy import Greedy
from resonnx_server.runtime.images import Pixels
from resonnx_server.runtime.sampling import Sampling
from resonnx_server.runtime.search import DecodeOptions, Search

# Weight of a finished caption's length against the mean of those before.
_DECAY: Final = 0.05
# Steps whose counts may wait for something worth waking the loop for.
_UNTOLD_STEPS: Final = 16


def start_search(spec: CaptionerSpec, options: DecodeOptions) -> Search:
    """Begin a caption as `options` say."""
    if options.temperature > 0:
        return Sampling(spec, options)
    return BeamSearch(spec, options) if options.beam_width > 1 else Greedy(spec, options)


class CaptionEngine:
    """One captioner's work.

    Args:
        graphs: Encoder and decoder.
        spec: Special tokens and limits.
        encode_table: Encoder costs by pictures.
        step_table: Decoder costs by rows; its largest size is the number of slots.
        slots: That many rows, which hold what `graphs` take.
        device: Where it runs.
        stats: The model's counters.
        policy: When to encode and when to step.
        max_queue_rows: Pictures that may wait.
        max_queue_delay_us: How long the oldest may wait for company.
        objective: What the model should keep, if anything.
    """

    def __init__(
        self,
        graphs: Captioner[D],
        spec: CaptionerSpec,
        encode_table: LatencyTable,
        step_table: LatencyTable,
        slots: SlotRows[CaptionTask, D],
        device: Device,
        stats: ModelStats,
        *,
        policy: CaptionPolicy = "continuous",
        max_queue_rows: int,
        max_queue_delay_us: int = 0,
        objective: Objective | None = None,
    ) -> None:
        # Of one D, which is nobody's business from here on.
        self.graphs: Captioner[Any] = graphs
        self.slots: SlotRows[CaptionTask, Any] = slots
        self.spec = spec
        self.table, self.step_table = encode_table, step_table
        self.device, self.stats = device, stats
        self.pacing = pacing(policy, encode_table, step_table)
        self.staging = Staging(encode_table.largest, device.allocate)
        # What steps have to tell; owned by the step under way.
        self.untold = Events()
        # Of equal words the first: a vocabulary should have none.
        self.word_ids = {word: i for i, word in reversed(list(enumerate(spec.vocabulary)))}
        stats.slots = slots.capacity
        self._loop = asyncio.get_running_loop()
        self._batcher: Batcher[CaptionTask] = Batcher(
            encode_table, max_queue_rows, max_queue_delay_us * 1000, objective.latency_ns if objective else None
        )
        self._admission = DeadlineAdmission(device, objective)
        # Guarded by the device's lock. Rows are those that captions may come to need, not those that they have.
        self._joining: list[Encoded] = []
        self._active_captions = 0
        self._active_rows = 0
        self._streaming = False
        self._under_way = False
        self._last_step_ns = 0
        self._mean_steps = spec.max_tokens / 2
        self._closed = False
        device.attach(self)

    def place(
        self,
        pictures: int,
        options: DecodeOptions,
        deadline_ns: int | None = None,
        priority: int = DEFAULT_PRIORITY,
        decoding_ns: float = 0.0,
    ) -> Place:
        """Keep room for pictures that are yet to be decoded: `with engine.place(…) as place`.

        Args:
            pictures: How many, each of which is submitted by itself.
            options: As for `submit`.
            deadline_ns: As for `submit`.
            priority: As for `submit`.
            decoding_ns: Expected time until they are decoded.

        Raises:
            Overloaded: The queue is full.
            DeadlineUnreachable: The deadline would pass before the captions are there.
            Unavailable: The model is being closed.
        """
        if self._closed:
            raise Unavailable("the model is being closed")
        with self.device.lock:
            return Place(
                self._batcher,
                self.device,
                self._admission,
                rows=pictures,
                wait_ns=self._wait_ns(pictures, options, priority),
                deadline_ns=deadline_ns,
                decoding_ns=decoding_ns,
            )

    async def submit(
        self,
        image: Pixels,
        options: DecodeOptions,
        on_words: OnWords | None = None,
        deadline_ns: int | None = None,
        priority: int = DEFAULT_PRIORITY,
        place: Place | None = None,
    ) -> Captioned:
        """Caption one picture.

        Args:
            image: uint8 [H,W,3], as the manifest's input says.
            options: How to decode; beam_width at most the slots.
            on_words: Called on the event loop with words of the best caption as they become certain.
            deadline_ns: Monotonic; decoding stops when it has passed.
            priority: 1 (first) to batcher.PRIORITY_LEVELS.
            place: Where room was kept for it; None asks for it now.

        Raises:
            Overloaded: The queue is full.
            DeadlineUnreachable: The deadline would pass before the caption is there.
            DeadlineExceeded: The deadline passed first.
            InferenceFailed: The runtime failed.
            Unavailable: The model is being closed.
        """
        if self._closed:
            raise Unavailable("the model is being closed")
        if place is None and self._admission.has_limit(deadline_ns):
            with self.place(1, options, deadline_ns, priority) as place:
                return await self.submit(image, options, on_words, deadline_ns, priority, place)
        future: asyncio.Future[Captioned] = self._loop.create_future()
        now = self.device.clock()
        search = start_search(self.spec, options)
        task = CaptionTask(image, search, options.attention, future, on_words, now, deadline_ns)
        entry = Entry(task, 1, now, deadline_ns, priority=priority)
        with self.device.lock:
            if place is not None:
                place.arrive(1)
            self._batcher.push([entry])
            self.device.notify(self.ready_at_ns())
        try:
            return await future
        except asyncio.CancelledError:
            # An active caption is noticed by its cancelled future before the next step.
            with self.device.lock:
                self._batcher.discard(entry)
            raise

    def queued_rows(self) -> int:
        """Pictures that wait now."""
        return self._batcher.rows

    def active_rows(self) -> int:
        """Rows that captions under way take, or may come to take."""
        return self._active_rows

    def close(self) -> None:
        """Fail what has no answer yet and take no more."""
        with self.device.lock:
            self._closed = True
            self.device.detach(self)
            if not self._under_way:
                self._abandon()

    # Called by the device, under its lock.

    def ready_at_ns(self) -> int | None:
        """See device.Workload."""
        if self._under_way:
            return None
        # With nothing to decode, every policy encodes what waits.
        return 0 if self._can_step() else self._batcher.ready_at_ns()

    def due_ns(self) -> int:
        """See device.Workload. A caption under way is due when its next word is: one step after the last."""
        due = self._batcher.due_ns()
        if self._active_captions or self._joining:
            next_word = self._last_step_ns + int(self.step_table.cost_ns(self.step_table.largest))
            due = next_word if due is None else min(due, next_word)
        assert due is not None
        return due

    def shortest_ns(self) -> float:
        """See device.Workload."""
        return self.step_table.cost_ns(self.step_table.sizes[0]) if self._can_step() else self._batcher.shortest_ns()

    def objective_ns(self) -> int | None:
        """See device.Workload."""
        return self._batcher.live_objective_ns(self.device.clock())

    def take(self, now_ns: int, budget_ns: float | None) -> Job | None:
        """See device.Workload."""
        ready_at = self._batcher.ready_at_ns()
        waiting = self._fitting() if ready_at is not None and ready_at <= now_ns else 0
        if waiting and (pictures := self.pacing.encode_now(self._load(waiting))):
            batch = self._batcher.take(now_ns, pictures, budget_ns)
            if batch.expired:
                late = Events()
                for entry in batch.expired:
                    late.too_late(entry.payload)
                self.post(late)
            if batch.entries:
                self._under_way = True
                return EncodeJob(self, batch)
        return self._take_step() if self._can_step() else None

    def _can_step(self) -> bool:
        return self._active_captions > 0 or bool(self._joining)

    def _take_step(self) -> StepJob:
        room = self.slots.capacity - self._active_rows
        fitting = 0
        for encoded in self._joining:
            room -= encoded.task.search.width
            if room < 0:
                break
            fitting += 1
        joining, self._joining = self._joining[:fitting], self._joining[fitting:]
        job = StepJob(self, joining)
        self._under_way = True
        self._active_captions += len(joining)
        self._active_rows += _rows(encoded.task for encoded in joining)
        return job

    def _load(self, waiting: int) -> Load:
        joining = [encoded.task for encoded in self._joining]
        return Load(
            waiting,
            self._active_captions + len(joining),
            self._active_rows + _rows(joining),
            self._mean_steps,
            self._streaming,
        )

    def _fitting(self) -> int:
        """Pictures at the head of the queue that would find slots."""
        room = self.slots.capacity - self._active_rows - _rows(encoded.task for encoded in self._joining)
        for fitting, entry in enumerate(islice(self._batcher, self.table.largest)):
            room -= entry.payload.search.width
            if room < 0:
                return fitting
        return min(len(self._batcher), self.table.largest)

    def _wait_ns(self, pictures: int, options: DecodeOptions, priority: int) -> float:
        """Expected time until pictures that came now would have their captions, were the device this model's alone."""
        capacity, rows = self.slots.capacity, pictures * options.beam_width
        ahead = self._active_rows + self._batcher.rows + self._batcher.expected_rows
        decoding = self.step_table.cost_ns(self.step_table.bucket(min(ahead + rows, capacity)))
        # Those who find no slot wait for as many rounds of full slots as are before them.
        rounds = 1 + max(0, ahead + rows - capacity) / capacity
        steps = min(max(self._mean_steps, options.min_tokens), options.max_tokens)
        return self._batcher.wait_ns(pictures, priority) + steps * decoding * rounds

    # Called by jobs, on a lane.

    def encoded(self, joining: list[Encoded], size: int, ns: int | None) -> None:
        """Take what an encoder batch of size `size` gave; it joins at the next step."""
        with self.device.lock:
            if ns is not None:
                self.table.record(size, ns)
            self._joining += joining
            self._job_ended()

    def ended(self, task: CaptionTask) -> None:
        """Learn from a finished caption; by the step under way."""
        self._mean_steps += _DECAY * (task.steps - self._mean_steps)

    def stepped(self, size: int, ns: int | None) -> None:
        """Take note that a step of size `size` ended."""
        with self.device.lock:
            if ns is not None:
                self.step_table.record(size, ns)
            self._active_captions = len(self.slots.owners)
            self._active_rows = _rows(self.slots.owners)
            self._streaming = any(task.on_words is not None for task in self.slots.owners)
            self._last_step_ns = self.device.clock()
            self._job_ended()

    def _job_ended(self) -> None:
        self._under_way = False
        if self._closed:
            self._abandon()

    def _abandon(self) -> None:
        """Fail everybody; with the lock held, the model closed and no job under way."""
        events = Events()
        tasks = [entry.payload for entry in self._batcher.clear()]
        tasks += [*(encoded.task for encoded in self._joining), *self.slots.owners]
        for task in tasks:
            events.failed(task, Unavailable("the model is being closed"))
        self._joining, self._active_captions = [], 0
        self.post(events)

    def tell(self) -> None:
        """Post what steps had to tell, if it is worth waking the loop; by the step under way."""
        events = self.untold
        if events.words or events.finished or events.first_words_ns or len(events.steps) >= _UNTOLD_STEPS:
            self.untold = Events()
            self.post(events)

    def post(self, events: Events) -> None:
        """Deliver `events` on the event loop."""
        self.call(lambda: events.deliver(self.stats))

    def call(self, function: Callable[[], object]) -> None:
        """Call `function` on the event loop."""
        self._loop.call_soon_threadsafe(function)


def _rows(tasks: Iterable[CaptionTask]) -> int:
    """Rows that captions may come to need."""
    return sum(task.search.width for task in tasks)
