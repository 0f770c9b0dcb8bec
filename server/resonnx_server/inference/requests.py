"""A request from arrival to end: its memory, deadline, priority, pictures and statistics. Event loop only."""

import asyncio
import logging
import time
from collections.abc import Awaitable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self, TypeVar

from resonnx_server.access.caller import Caller
from resonnx_server.access.limits import Limits
from resonnx_server.errors import DeadlineExceeded, InvalidInput, RateLimited, ServerError, WaitTooLong
from resonnx_server.inference.comparing import NONE as NO_COMPARISONS
from resonnx_server.inference.comparing import Compared, Comparing
from resonnx_server.inference.pictures import AnyPictures, DecodedPictures
from resonnx_server.inference.registry import Model, Models
from resonnx_server.inference.tasks import Task
from resonnx_server.memory.budget import Budget, Charge
from resonnx_server.observe.requests.access_log import access_log
from resonnx_server.observe.requests.identity import IDENTITY
from resonnx_server.observe.spans.of_requests import begin_span, end_span
from resonnx_server.observe.spans.tracer import RequestSpan, tracer
from resonnx_server.observe.stats import Timing
from resonnx_server.observe.trace_context import TRACE_CONTEXT
from resonnx_server.observe.tracing import Frontend, Trace, Traces
from resonnx_server.preprocessing.clips.decode import ClipDecoder
from resonnx_server.preprocessing.decode import Decoder
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.scheduling.deadline_admission import Decoding
from resonnx_server.scheduling.sharing import DEFAULT_PRIORITY as DEFAULT_PRIORITY
from resonnx_server.scheduling.sharing import PRIORITY_LEVELS as PRIORITY_LEVELS

T = TypeVar("T")

_log = logging.getLogger(__name__)

_UNLIMITED: Final = nullcontext()


class ActiveRequest:
    """A request, counted in its model's statistics and the memory budget, and holding the model, until the block ends.

    Args:
        model: Serves it.
        decoder: Prepares its pictures.
        budget: Its memory is charged to it.
        size: Bytes of its message.
        caller: Who asks: memory, device time and decoding are shared between callers.
        trace: What is written of it; None if it is not traced.

    Attributes:
        deadline_ns: Monotonic; None if there is no deadline.
        max_wait_ns: Longest wait in the queue; 0 is its priority's.
        priority: 1 (first) to PRIORITY_LEVELS.
        timing: Its time by phase; must be set before the block ends without an error.
        decode_ns: Time to decode its pictures; 0 if they came decoded.
        compared: Its part in a comparison of versions; None if it has none.
        trace_context: Its place in its caller's distributed trace; None if the caller sent none.
        span: Its span in a distributed trace; None if that is not recorded.
        rows: Its rows: pictures, or rows of tensors; 0 until they are known.
    """

    compared: Compared | None = None
    span: RequestSpan | None = None
    rows = 0

    def __init__(
        self,
        model: Model,
        decoder: Decoder,
        budget: Budget,
        size: int,
        caller: str = "",
        trace: Trace | None = None,
    ) -> None:
        self._start_ns = time.monotonic_ns()
        self.model = model
        self._decoder = decoder
        self._size = size
        self._charge = Charge(budget, caller)
        self.caller = caller
        self._timeout_us = 0
        self._is_named = False
        self.deadline_ns: int | None = None
        self.max_wait_ns = 0
        self.priority = DEFAULT_PRIORITY
        self.timing: Timing | None = None
        self.decode_ns = 0
        self.trace = trace
        self.trace_context = TRACE_CONTEXT.get()
        self._decode_start_ns = 0

    def __enter__(self) -> Self:
        """Begin. Raises MemorySpent if the memory budget is spent, InvalidInput if the request never fits it."""
        try:
            self._charge.resize(self._size)
        except ServerError as error:
            now_ns = time.monotonic_ns()
            if self.trace is not None:
                self.trace.end(self._start_ns, now_ns, None, None)
            if self.span is not None:
                end_span(self.span, self._start_ns, now_ns, (0, 0), None, error)
            if access_log.is_on:
                self._tell(error, now_ns - self._start_ns)
            self.model.stats.request_failed(error, now_ns - self._start_ns)
            raise
        self.model.stats.in_progress += 1
        self.model.lease.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stats = self.model.stats
        self._charge.release()
        stats.in_progress -= 1
        self.model.lease.give_back()
        total_ns = (now_ns := time.monotonic_ns()) - self._start_ns
        if self.compared is not None:
            self.compared.ended(error, total_ns)
        if isinstance(error, asyncio.CancelledError) and self._is_late(now_ns):
            # gRPC has ended the call with this status.
            error = DeadlineExceeded("the call's deadline has passed")
        if self.trace is not None:
            decoded = (self._decode_start_ns, self.decode_ns) if self.decode_ns else None
            self.trace.end(self._start_ns, now_ns, decoded, self.timing)
        if self.span is not None:
            decode = self._decode_start_ns, self.decode_ns
            end_span(self.span, self._start_ns, now_ns, decode, self.timing, error)
        if access_log.is_on:
            self._tell(error, total_ns)
        if _log.isEnabledFor(logging.DEBUG):
            self._log_end(error, total_ns)
        if error is None and self.timing is not None:
            context = self.trace_context
            trace_id = context.trace_id if context is not None and context.is_sampled else None
            stats.request_done(self.timing, self._start_ns, now_ns, self.decode_ns, trace_id)
            return
        stats.request_failed(error, total_ns)

    def hold(self, nbytes: int, *, answer: bool = False) -> None:
        """Charge further bytes until it ends. Raises MemorySpent or InvalidInput.

        Args:
            nbytes: Bytes that are about to be allocated.
            answer: They are the answer's; see Charge.resize.
        """
        self._charge.resize(self._charge.nbytes + nbytes, answer=answer)

    def limit(self, caller_ns: int | None, timeout_us: int, priority: int, *, named: bool = False) -> None:
        """Set the priority and the deadline: the caller's, or the request's own timeout if that ends earlier.

        Args:
            caller_ns: The call's deadline, monotonic ns, at which gRPC ends it; None if it has none.
            timeout_us: From the request's arrival; 0 is none.
            priority: 1 (first) to PRIORITY_LEVELS; 0 is the default.
            named: Timeout and priority are parameters of the tensor protocol: errors name them, the timeout with its
                unit, as many clients mean seconds.

        Raises:
            InvalidInput: There is no such priority.
        """
        if priority > PRIORITY_LEVELS:
            field = "parameters['priority']" if named else "priority"
            raise InvalidInput(field, f"{priority} is not within 0..{PRIORITY_LEVELS}")
        self.priority = priority or DEFAULT_PRIORITY
        self.deadline_ns = caller_ns
        if timeout_us:
            own_ns = self._start_ns + timeout_us * 1000
            if caller_ns is None or own_ns < caller_ns:
                self.deadline_ns, self._timeout_us, self._is_named = own_ns, timeout_us, named

    async def in_time(self, work: Awaitable[T]) -> T:
        """Return the result of `work`. Raises DeadlineExceeded if the request's own timeout passes before.

        It counts from the request's arrival, so that the parts of a request share it.
        """
        if not self._timeout_us:
            return await work
        assert self.deadline_ns is not None
        try:
            try:
                async with asyncio.timeout((self.deadline_ns - time.monotonic_ns()) / 1e9):
                    return await work
            except TimeoutError:
                raise DeadlineExceeded("the request's timeout passed before the answer was complete") from None
        except (DeadlineExceeded, WaitTooLong) as error:
            if self._is_named:
                us = self._timeout_us
                error.message += f" (the parameter 'timeout' is {us} µs, {us / 1000:g} ms)"
            raise

    async def decoding(self, pictures: AnyPictures) -> Decoding | None:
        """Return the predicted time to decode its pictures; None if they are decoded."""
        assert self.model.pictures is not None
        return await pictures.decoding(self._decoder, self.model.pictures, self.priority, self.caller)

    async def pixels(self, pictures: AnyPictures) -> Pixels:
        """Return its pictures as the model takes them, uint8 [N,H,W,3].

        Raises:
            BadImage: One cannot be decoded.
            MemorySpent: The memory budget is spent.
        """
        if isinstance(pictures, DecodedPictures):
            return pictures.array
        assert self.model.pictures is not None
        recipe = self.model.pictures.recipe
        self.hold(pictures.count * recipe.width * recipe.height * 3)
        # What a video file took so far has just ended.
        start_ns = time.monotonic_ns()
        self._decode_start_ns = start_ns - self.decode_ns
        pixels = await pictures.pixels(self._decoder, self.model.pictures, self.priority, self.caller)
        self.decode_ns += time.monotonic_ns() - start_ns
        return pixels

    def _tell(self, error: BaseException | None, total_ns: int) -> None:
        about = {"model": self.model.name, "version": self.model.version, "rows": self.rows, "bytes": self._size}
        access_log.ended(self.caller, _outcome(error), total_ns, **about)

    def _log_end(self, error: BaseException | None, total_ns: int) -> None:
        outcome = _outcome(error)
        fields = {"model": self.model.name, "version": self.model.version, "caller": self.caller, "outcome": outcome}
        _log.debug("a request ended", extra={**fields, "us": total_ns // 1000, "priority": self.priority})

    def _is_late(self, now_ns: int) -> bool:
        """Whether the deadline has passed. Callers round it up on its way, by up to 1 ms or 1 %."""
        if self.deadline_ns is None:
            return False
        return now_ns >= self.deadline_ns - max(1_000_000, (self.deadline_ns - self._start_ns) // 100)


def _outcome(error: BaseException | None) -> str:
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "CANCELLED"
    return "OK" if error is None else getattr(error, "reason", ServerError.reason)


@dataclass(frozen=True)
class Inference:
    """The models, the decoders of pictures and clips, the memory budget and the callers' limits, for all fronts."""

    models: Models
    decoder: Decoder
    budget: Budget
    limits: Limits = field(default_factory=Limits)
    traces: Traces = field(default_factory=Traces)
    frontend: Frontend = Frontend.GRPC
    comparing: Comparing = NO_COMPARISONS
    clips: ClipDecoder | None = None

    def limited(self, caller: Caller) -> AbstractContextManager[None]:
        """Count a request of `caller` against its limits until the block ends. Event loop only.

        Raises:
            RateLimited: One of them is reached; the call is counted as rejected.
        """
        if caller.rate_per_s is None and caller.max_concurrent is None:
            return _UNLIMITED
        try:
            return self.limits.begin(caller)
        except RateLimited as error:
            self.models.rejected.count(error)
            raise

    def begin(
        self,
        name: str,
        version: int | str,
        size: int,
        task: Task | None = None,
        *,
        caller: Caller | None = None,
        identifier: str = "",
    ) -> ActiveRequest:
        """Return a caller's request of `size` bytes for a version of a model: see Models.get.

        With an identifier, the request's own, a caller without a key has a part in a canary by it, and lines of the
        log and errors name the request by it.

        Raises:
            ServerError: No such model serves; see Models.find.
        """
        if identifier and (identity := IDENTITY.get()) is not None:
            identity.given = identifier
        model, trace, compared = self.models.find(name, version, task, caller), None, None
        by = "" if caller is None else caller.name
        if self.comparing.is_on:
            model, compared = self.comparing.begin(model, version, by, identifier)
        if self.traces.is_on:
            trace = self.traces.begin(model.name, model.version, self.frontend)
        request = ActiveRequest(model, self.decoder, self.budget, size, by, trace)
        if compared is not None:
            request.compared = compared
        if tracer.is_on:
            provider = str(model.sessions[0].candidate) if model.sessions else ""
            request.span = begin_span(model.task.name, model.name, model.version, provider, by)
        return request
