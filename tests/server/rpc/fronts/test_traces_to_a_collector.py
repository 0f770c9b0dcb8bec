"""A real server exports traces by OTLP to a collector in this process, and loses nothing but traces without one."""

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2
from resonnx_proto.inference import grpc_service_pb2, grpc_service_pb2_grpc
from resonnx_proto.v1 import vision_pb2 as pb
from resonnx_proto.v1 import vision_pb2_grpc

from ....conftest import RunningServer
from ... import bare_graphs

_PARENT = "b7ad6b7169203331"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.requests: list[trace_service_pb2.ExportTraceServiceRequest] = []
        self._changed = threading.Condition()

    def Export(self, request: Any, context: object) -> trace_service_pb2.ExportTraceServiceResponse:  # noqa: N802
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def of_trace(self, trace_id: str) -> list[trace_pb2.Span]:
        return [span for span in self.spans() if span.trace_id.hex() == trace_id]

    def spans(self) -> Iterator[trace_pb2.Span]:
        for request in [*self.requests]:
            for of_resource in request.resource_spans:
                for of_scope in of_resource.scope_spans:
                    yield from of_scope.spans

    def call(self, trace_id: str) -> trace_pb2.Span:
        """Return the span of a call, which is exported last, once it has come."""
        found: list[trace_pb2.Span] = []

        def is_there() -> bool:
            found[:] = [span for span in self.of_trace(trace_id) if span.kind == trace_pb2.Span.SPAN_KIND_SERVER]
            return bool(found)

        with self._changed:
            assert self._changed.wait_for(is_there, 20), [span.name for span in self.spans()]
        return found[0]


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[Collector, int]]:
    """A collector and its port."""
    servicer, server = Collector(), grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, port
    server.stop(0)


@pytest.fixture(scope="module")
def server(start_server, demo_repository: Path, collector: tuple[Collector, int]) -> Iterator[RunningServer]:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector[1]}",
        "OTEL_SERVICE_NAME": "tested",
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
    }
    arguments = ("--tracing", "otlp", "--log-level", "debug")
    with start_server(demo_repository, *arguments, environment=environment) as running:
        yield running


@pytest.fixture
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel


def _picture(samples: Path, truth: dict[str, dict[str, str]], model: str) -> pb.Image:
    name = next(name for name, entry in truth.items() if entry["model"] == model)
    return pb.Image(encoded=(samples / name).read_bytes())


def _traced(number: int, flags: str = "01") -> tuple[str, list[tuple[str, str]]]:
    trace_id = f"{number:032x}"
    return trace_id, [("traceparent", f"00-{trace_id}-{_PARENT}-{flags}"), ("tracestate", "vendor=1")]


def _attributes(span: trace_pb2.Span) -> dict[str, Any]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes}


def _tree(spans: list[trace_pb2.Span]) -> dict[str, str]:
    """Return the name of each span's parent by its name."""
    names = {span.span_id: span.name for span in spans}
    return {span.name: names.get(span.parent_span_id, span.parent_span_id.hex()) for span in spans}


def test_a_classified_picture(server, channel, collector, samples, truth) -> None:
    trace_id, metadata = _traced(1)
    request = pb.ClassifyRequest(model="digits", image=_picture(samples, truth, "digits"), id="mine")
    vision_pb2_grpc.VisionStub(channel).Classify(request, metadata=metadata, timeout=20)
    call = collector[0].call(trace_id)
    spans = collector[0].of_trace(trace_id)
    assert _tree(spans) == {
        "resonnx.v1.Vision/Classify": _PARENT,
        "classify digits": "resonnx.v1.Vision/Classify",
        **dict.fromkeys(("admission", "decode", "queue", "compute"), "classify digits"),
    }
    assert _attributes(call) == {
        "rpc.system.name": "grpc",
        "rpc.method": "resonnx.v1.Vision/Classify",
        "rpc.response.status_code": "OK",
    }
    assert call.trace_state == "vendor=1"
    by_name = {span.name: span for span in spans}
    told = _attributes(by_name["classify digits"])
    assert (told["resonnx.model"], told["resonnx.version"], told["resonnx.request_id"]) == ("digits", 1, "mine")
    assert told["resonnx.provider"].startswith("CPUExecutionProvider/")
    (link,) = by_name["compute"].links
    (batch,) = collector[0].of_trace(link.trace_id.hex())
    assert (batch.name, batch.span_id, _attributes(batch)["resonnx.batch.rows"]) == ("batch", link.span_id, 1)
    assert [each.span_id for each in batch.links] == [by_name["classify digits"].span_id]
    resource = collector[0].requests[0].resource_spans[0].resource
    assert {each.key: each.value.string_value for each in resource.attributes}["service.name"] == "tested"
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (ended,) = [line for line in lines if line.get("request_id") == "mine"]
    assert ended["trace_id"] == trace_id


def test_a_caption_word_by_word(channel, collector, samples, truth) -> None:
    trace_id, metadata = _traced(2)
    request = pb.CaptionRequest(model="scenes", image=_picture(samples, truth, "scenes"))
    *words, last = vision_pb2_grpc.VisionStub(channel).StreamCaption(request, metadata=metadata, timeout=20)
    assert words
    assert last.final.captions
    collector[0].call(trace_id)
    spans = {span.name: span for span in collector[0].of_trace(trace_id)}
    assert _tree([*spans.values()])["steps"] == "caption scenes"
    assert _attributes(spans["steps"])["resonnx.caption.steps"] >= len(words)
    assert spans["encode"].end_time_unix_nano == spans["steps"].start_time_unix_nano
    assert len(spans["encode"].links) == 1


def test_each_request_of_a_stream_and_one_that_fails(channel, collector, samples, truth) -> None:
    trace_id, metadata = _traced(3)
    good = pb.ClassifyRequest(model="digits", image=_picture(samples, truth, "digits"), id="good")
    requests = [good, pb.ClassifyRequest(model="digits", image=pb.Image(encoded=b"no picture"), id="bad")]
    assert (
        len(list(vision_pb2_grpc.VisionStub(channel).ClassifyStream(iter(requests), metadata=metadata, timeout=20)))
        == 2
    )
    collector[0].call(trace_id)
    told = [_attributes(span) for span in collector[0].of_trace(trace_id) if span.name == "classify digits"]
    assert {each["resonnx.request_id"]: each.get("error.type") for each in told} == {
        "good": None,
        "bad": "BAD_IMAGE",
    }


def test_a_call_that_finds_no_model(channel, collector) -> None:
    trace_id, metadata = _traced(4)
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(grpc_service_pb2.ModelInferRequest(model_name="none"), metadata=metadata, timeout=20)
    call = collector[0].call(trace_id)
    assert _attributes(call)["rpc.response.status_code"] == "NOT_FOUND"
    # It is the caller's fault.
    assert call.status.code == trace_pb2.Status.STATUS_CODE_UNSET


def test_over_http_and_not_what_is_not_sampled(server, channel, collector, samples, truth) -> None:
    body = _picture(samples, truth, "digits").encoded
    unsampled, headers = _traced(5, flags="00")
    url = f"http://{server.http}/v1/classify/digits"
    urllib.request.urlopen(urllib.request.Request(url, body, dict(headers)), timeout=20).close()
    trace_id, headers = _traced(6)
    urllib.request.urlopen(urllib.request.Request(url, body, dict(headers)), timeout=20).close()
    call = collector[0].call(trace_id)
    assert (call.name, _attributes(call)["http.response.status_code"]) == ("POST /v1/classify/{name}", 200)
    tree = _tree(collector[0].of_trace(trace_id))
    assert (tree["classify digits"], tree["compute"]) == (call.name, "classify digits")
    assert not collector[0].of_trace(unsampled)


def test_without_a_collector_all_is_answered_and_one_line_is_logged(start_server, tmp_path: Path) -> None:
    (tmp_path / "models/double/1").mkdir(parents=True)
    (tmp_path / "models/double/1/model.onnx").write_bytes(bare_graphs.doubling())
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "10"}
    environment["OTEL_EXPORTER_OTLP_TIMEOUT"] = "1"
    infer = grpc_service_pb2.ModelInferRequest(model_name="double")
    with start_server(tmp_path / "models", "--tracing", "otlp", environment=environment) as server:
        with grpc.insecure_channel(server.grpc) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                with pytest.raises(grpc.RpcError) as failed:
                    stub.ModelInfer(infer, timeout=5)
                assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 15
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert sum(line["logger"].startswith("opentelemetry") for line in lines) <= 1
