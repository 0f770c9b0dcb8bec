"""The tensor protocol's `timeout`, in microseconds, counts where settings say so: many clients send seconds."""

import asyncio
import io
import re
import struct
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from resonnx_proto.inference import grpc_service_pb2 as oip
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc
from resonnx_server.errors import DeadlineExceeded, DeadlineUnreachable, Overloaded, ServerError, WaitTooLong
from resonnx_server.inference.requests import ActiveRequest
from resonnx_server.memory.budget import Budget
from tritonclient.utils import InferenceServerException

from ...waiting import until

# As clients send them that mean seconds or milliseconds.
SHORT = (1, 5, 30, 300, 1000)


def _pixels() -> list[triton.InferInput]:
    tensor = triton.InferInput("image", [1, 32, 32, 3], "UINT8")
    tensor.set_data_from_numpy(np.zeros((1, 32, 32, 3), np.uint8))
    return [tensor]


@pytest.fixture(scope="module")
def server(start_server, demo_repository, tmp_path_factory) -> Iterator[object]:
    """One model that honours timeouts, and one that does not."""
    config = tmp_path_factory.mktemp("config") / "server.toml"
    config.write_text("[models.digits]\nallow_timeout_override = true\n")
    with start_server(demo_repository, "--config", str(config)) as server:
        yield server


def _allowed(client: triton.InferenceServerClient, model: str) -> bool:
    config = client.get_model_config(model).config
    return config.dynamic_batching.default_queue_policy.allow_timeout_override


def test_timeouts_are_ignored_by_default(demo_server) -> None:
    with triton.InferenceServerClient(demo_server.grpc) as client:
        assert not _allowed(client, "digits")
        for timeout in SHORT:
            assert client.infer("digits", _pixels(), timeout=timeout).as_numpy("logits").shape == (1, 10)


def test_a_timeout_that_is_honoured_is_told_with_its_unit(server) -> None:
    with triton.InferenceServerClient(server.grpc) as client:
        assert _allowed(client, "digits")
        assert not _allowed(client, "scenes")
        for timeout in SHORT[:3]:
            with pytest.raises(InferenceServerException) as refused:
                client.infer("digits", _pixels(), timeout=timeout)
            assert refused.value.status() == "StatusCode.DEADLINE_EXCEEDED"
            assert f"the parameter 'timeout' is {timeout} µs, {timeout / 1000:g} ms" in refused.value.message()
        # 20 s.
        assert client.infer("digits", _pixels(), timeout=20_000_000).as_numpy("logits").shape == (1, 10)


def test_a_deadline_of_the_call_is_not_blamed_on_a_longer_timeout(server) -> None:
    with triton.InferenceServerClient(server.grpc) as client, pytest.raises(InferenceServerException) as refused:
        client.infer("digits", _pixels(), timeout=20_000_000, client_timeout=0.0005)
    assert not re.search("timeout' is", refused.value.message())


async def test_a_call_that_ends_at_its_deadline_is_not_counted_as_cancelled(server) -> None:
    """Nothing is predicted for pictures of an unknown kind: gRPC ends the call while one is decoded."""

    def counted() -> list[float]:
        return [
            server.metric("resonnx_request_errors_total", model="digits", reason=reason)
            for reason in ("DEADLINE_EXCEEDED", "CANCELLED")
        ]

    late, cancelled = counted()
    file = io.BytesIO()
    Image.new("RGB", (6000, 6000)).save(file, "PNG", compress_level=1)
    png = file.getvalue()
    infer = oip.ModelInferRequest(model_name="digits", raw_input_contents=[struct.pack("<I", len(png)) + png])
    infer.inputs.add(name="image", datatype="BYTES", shape=[1])
    classify = vision_pb2.ClassifyRequest(model="digits", image=vision_pb2.Image(encoded=png))
    with grpc.insecure_channel(server.grpc) as channel:
        for call, request in (
            (vision_pb2_grpc.VisionStub(channel).Classify, classify),
            (grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer, infer),
        ):
            with pytest.raises(grpc.RpcError) as ended:
                call(request, timeout=0.1)
            assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: sum(counted()) == late + cancelled + 2)
    assert counted() == [late + 2, cancelled]


def _request(timeout_us: int, *, named: bool = True) -> ActiveRequest:
    request = ActiveRequest(None, None, Budget(100), 1)  # type: ignore[arg-type]
    request.limit(None, timeout_us, 0, named=named)
    return request


async def _raises(error: ServerError) -> None:
    raise error


@pytest.mark.parametrize(
    "error", [DeadlineExceeded("late"), DeadlineUnreachable("too soon"), WaitTooLong("a long queue", 20)]
)
async def test_whoever_runs_out_of_time_by_the_timeout_is_told_so(error: ServerError) -> None:
    with pytest.raises(ServerError) as told:
        await _request(30).in_time(_raises(error))
    assert told.value.message.endswith("(the parameter 'timeout' is 30 µs, 0.03 ms)")


async def test_work_that_goes_on_ends_at_the_timeout() -> None:
    with pytest.raises(DeadlineExceeded, match="passed before the answer") as told:
        await _request(1000).in_time(asyncio.Event().wait())
    assert told.value.message.endswith("(the parameter 'timeout' is 1000 µs, 1 ms)")


async def test_other_errors_are_not_blamed_on_the_timeout() -> None:
    for error, named in ((Overloaded("full", 20), True), (DeadlineExceeded("late"), False)):
        with pytest.raises(ServerError) as told:
            await _request(60_000_000, named=named).in_time(_raises(error))
        assert "timeout" not in told.value.message
