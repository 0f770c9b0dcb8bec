"""Spans as OpenTelemetry's SDK exports them, in memory: sampling, ids, stages, links and times."""

import logging
import time
from collections.abc import Callable, Iterator

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from resonnx_server.errors import InferenceFailed, InvalidInput, WaitTooLong
from resonnx_server.observe.requests.identity import IDENTITY, Identity
from resonnx_server.observe.spans import otlp
from resonnx_server.observe.spans.encoding import encoded
from resonnx_server.observe.spans.of_requests import begin_span, end_span
from resonnx_server.observe.spans.tracer import BadExport, Decoded, Tracer, tracer
from resonnx_server.observe.stats import Timing
from resonnx_server.observe.trace_context import TRACE_CONTEXT, TraceContext

_TRACE, _SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
Export = Callable[[], dict[str, ReadableSpan]]


@pytest.fixture
def exported() -> Iterator[Export]:
    """Record spans, in the context of a request; return those that have ended by name."""
    exporter = InMemorySpanExporter()
    tracer.use(otlp.OtlpSink(SimpleSpanProcessor(exporter), "1.0"))
    tokens = IDENTITY.set(Identity([("x-request-id", "r-1")])), TRACE_CONTEXT.set(None)
    try:
        yield lambda: {span.name: span for span in exporter.get_finished_spans()}
    finally:
        IDENTITY.reset(tokens[0])
        TRACE_CONTEXT.reset(tokens[1])
        tracer.use(None)


def _begin() -> None:
    identity = IDENTITY.get()
    assert identity is not None
    identity.call_span = tracer.call("some/Method", {"rpc.method": "some/Method"})


def test_stages_of_a_request_and_its_batch(exported: Export) -> None:
    TRACE_CONTEXT.set(TraceContext(_TRACE, _SPAN, is_sampled=True, state="vendor=x"))
    _begin()
    start, wall = time.monotonic_ns(), time.time_ns()
    span = begin_span("classify", "digits", 3, "cpu/fp32", "key:team")
    assert span is not None
    ms = 1_000_000
    timing = Timing(2 * ms, ms, 5 * ms, ms, 4, start + 6 * ms)
    tracer.batch("batch", [None, span], start + 6 * ms, start + 13 * ms, {"resonnx.batch.rows": 4})
    end_span(span, start, start + 14 * ms, (start + ms, 3 * ms), timing, None)
    identity = IDENTITY.get()
    assert identity is not None
    assert identity.call_span is not None
    identity.call_span.end({"rpc.response.status_code": "OK"}, None)
    found = exported()
    whole, call, batch = found["classify digits"], found["some/Method"], found["batch"]
    assert call.kind is SpanKind.SERVER
    assert call.parent is not None
    assert (f"{call.parent.span_id:016x}", call.parent.is_remote) == (_SPAN, True)
    assert call.context.trace_state.get("vendor") == "x"
    assert whole.parent is not None
    assert whole.parent.span_id == call.context.span_id
    assert dict(whole.attributes or {}) == {
        "resonnx.model": "digits",
        "resonnx.version": 3,
        "resonnx.provider": "cpu/fp32",
        "resonnx.request_id": "r-1",
        "resonnx.caller": "key:team",
    }
    times = {"admission": (0, 1), "decode": (1, 4), "queue": (4, 6), "compute": (6, 13), "classify digits": (0, 14)}
    for name, (begin, end) in times.items():
        each = found[name]
        assert f"{each.context.trace_id:032x}" == _TRACE
        assert (each.end_time or 0) - (each.start_time or 0) == (end - begin) * ms, name
        # Two clocks are read one after the other.
        assert abs((each.start_time or 0) - wall - begin * ms) < 50 * ms, name
    assert batch.context.trace_id != call.context.trace_id
    assert [link.context for link in batch.links] == [whole.context]
    assert [link.context for link in found["compute"].links] == [batch.context]
    assert (batch.attributes or {})["resonnx.model"] == "digits"
    context = TRACE_CONTEXT.get()
    assert context is not None
    assert (context.trace_id, int(context.parent_id, 16)) == (_TRACE, call.context.span_id)


def test_a_caption_has_one_span_for_all_steps(exported: Export) -> None:
    _begin()
    span = begin_span("caption", "scenes", 1, "cpu/fp32", "ip:192.0.2.1")
    assert span is not None
    span.decoded = [Decoded(Timing(10, 1, 30, 0, 2, 100), 120, 200, 7)]
    end_span(span, 50, 210, (60, 20), span.decoded[0].timing, None)
    found = exported()
    assert found.keys() == {"caption scenes", "admission", "decode", "queue", "encode", "steps"}
    assert (found["steps"].attributes or {})["resonnx.caption.steps"] == 7
    assert (found["steps"].end_time or 0) - (found["encode"].end_time or 0) == 80
    # Addresses are no names.
    assert "resonnx.caller" not in (found["caption scenes"].attributes or {})


@pytest.mark.parametrize(
    ("error", "reason", "is_fault"),
    [
        (InvalidInput("x", "wrong"), "INVALID_INPUT", False),
        (InferenceFailed("no"), "INFERENCE_FAILED", True),
        (WaitTooLong.for_ns("late", 1e9), "WAIT_TOO_LONG", True),
        (KeyError("bug"), "KeyError", True),
    ],
)
def test_failures(exported: Export, error: Exception, reason: str, *, is_fault: bool) -> None:
    _begin()
    span = begin_span("classify", "digits", 3, "cpu/fp32", "")
    assert span is not None
    end_span(span, 1, 9, (2, 0), None, error)
    whole = exported()["classify digits"]
    assert (whole.attributes or {})["error.type"] == reason
    assert (whole.status.status_code is StatusCode.ERROR) is is_fault
    # It ended while it was decoded.
    assert exported().keys() == {"classify digits", "admission", "decode"}


@pytest.mark.parametrize(
    ("sampler", "argument", "sampled", "recorded"),
    [
        ("parentbased_traceidratio", "0.0", None, False),
        ("parentbased_traceidratio", "0.0", True, True),
        ("parentbased_always_on", "", False, False),
        ("always_on", "", False, True),
    ],
)
def test_the_variables_sampler_decides(
    sampler: str, argument: str, *, sampled: bool | None, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    recording = Tracer()
    recording.use(otlp.OtlpSink(SimpleSpanProcessor(InMemorySpanExporter()), "1.0"))
    context = None if sampled is None else TraceContext(_TRACE, _SPAN, sampled)
    token = TRACE_CONTEXT.set(context)
    try:
        assert (recording.call("some/Method", {}) is not None) is recorded
        assert recorded or TRACE_CONTEXT.get() == context
    finally:
        TRACE_CONTEXT.reset(token)


def test_spans_are_encoded_as_the_library_does(exported: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "zone=a")
    exporter = InMemorySpanExporter()
    tracer.use(otlp.OtlpSink(SimpleSpanProcessor(exporter), "1.0"))
    for parent in (None, TraceContext(_TRACE, _SPAN, is_sampled=True, state="vendor=x,other=y")):
        TRACE_CONTEXT.set(parent)
        _begin()
        span = begin_span("classify", "digits", 3, "cpu/fp32", "key:team")
        assert span is not None
        tracer.batch("batch", [span, span], 1, 5, {"resonnx.batch.rows": 4, "resonnx.batch.infer_ms": 0.5})
        end_span(span, 1, 9, (2, 1), Timing(1, 1, 1, 1, 2, 4), InferenceFailed("no"))
        identity = IDENTITY.get()
        assert identity is not None
        assert identity.call_span is not None
        identity.call_span.end({"flag": True}, "INTERNAL")
    spans = exporter.get_finished_spans()
    assert len(spans) == 14
    assert encoded(spans) == encode_spans(spans)
    # The exporter that sends them uses it.
    assert "_translate_data" in vars(OTLPSpanExporter)


def test_another_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    with pytest.raises(BadExport, match="OTEL_EXPORTER_OTLP_PROTOCOL: 'http/protobuf' is not supported; use grpc"):
        otlp.OtlpSink.of_environment("1.0")


def test_an_export_that_hangs_does_not_hold_the_end_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            time.sleep(60)
            return SpanExportResult.FAILURE

    monkeypatch.setattr(otlp, "_CLOSE_S", 0.1)
    sink = otlp.OtlpSink(otlp.BatchSpanProcessor(Hanging()), "1.0")
    recording = Tracer()
    recording.use(sink)
    call = recording.call("some/Method", {})
    assert call is not None
    call.end({}, None)
    began = time.monotonic()
    sink.close()
    assert time.monotonic() - began < 5


def test_no_request_fails_for_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    """And no caller fills the log with headers that are wrong."""

    class Failing(SimpleSpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise KeyError("bug")

    recording = Tracer()
    recording.use(otlp.OtlpSink(Failing(InMemorySpanExporter()), "1.0"))
    token = TRACE_CONTEXT.set(TraceContext(_TRACE, _SPAN, is_sampled=True, state="=,;\x00wrong"))
    try:
        call = recording.call("some/Method", {})
        assert call is not None
        call.end({}, None)
        recording.batch("batch", [call.request("a", {})], 1, 2, {})
    finally:
        TRACE_CONTEXT.reset(token)
    assert {record.message for record in caplog.records if record.name.startswith("resonnx")} == {
        "spans could not be exported"
    }


def test_what_the_library_tells_of_a_collector_is_told_once_a_minute() -> None:
    paced = otlp._Paced()
    record = logging.makeLogRecord({})
    assert [paced.filter(record) for _ in range(3)] == [True, False, False]
    paced._next_s -= 61
    assert paced.filter(record)
