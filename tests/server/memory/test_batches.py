"""What the largest batches of models take is known by their engines, and kept of the server's budget."""

import time
from pathlib import Path

import grpc
import numpy as np
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_server.captioning.slots import host_slots
from resonnx_server.observe.metrics import Metrics
from resonnx_server.runtime.tensor_view import TensorSpec, row_bytes
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.session_pool import InstanceGroup, SessionPool
from resonnx_server.tensors.engine import TensorEngine

from ...conftest import StartServer
from .. import bare_graphs
from ..hand import caption_engine
from ..language import Language

MB = 1 << 20
FLOATS = 4096


def test_a_row_takes_the_bytes_of_all_its_tensors() -> None:
    pictures = TensorSpec("image", np.dtype(np.uint8), ("batch", 8, 6, 3))
    free = TensorSpec("x", np.dtype(np.float32), (None, "length", 5))
    assert row_bytes(pictures, free) == 8 * 6 * 3 + 4 * 5
    assert row_bytes() == 0


async def test_an_engine_of_tensors_counts_the_largest_batch_of_each_lane() -> None:
    pool = SessionPool(lambda feeds: {}, LatencyTable({1: 1e6, 16: 1e7}))
    device = Device("test", 3)
    engine = TensorEngine(
        InstanceGroup(pool, pool, 3), device, Metrics().model("m", 1), max_queue_rows=100, row_bytes=10
    )
    try:
        assert engine.batch_bytes == 3 * 16 * 10
    finally:
        engine.close()
        device.close()


def test_slots_take_the_memory_of_tokens_states_and_features() -> None:
    slots = host_slots(20, [np.zeros((1, 3), np.float32)] * 2, [np.zeros((4, 5, 7), np.float16)])
    assert slots.host_bytes == 20 * (8 + 2 * 3 * 4 + 5 * 7 * 2)


async def test_a_captioner_counts_encoder_batches_slots_and_a_step() -> None:
    device = Device("test", 2, time.monotonic_ns)
    engine = caption_engine(Language(), device, slots=32, instances=2, picture_bytes=100, step_bytes=10)
    try:
        assert engine.batch_bytes == 2 * 16 * 100 + 32 * (8 + 8 + 8) + 32 * 10
        engine.close()
        engine.free()
        assert engine.batch_bytes, "one that is freed can be asked still"
    finally:
        engine.close()
        device.close()


def test_a_server_keeps_memory_for_its_models_batches_and_serves_those_beyond_it(
    start_server: StartServer, tmp_path: Path
) -> None:
    row = 2 * 4 * FLOATS
    for name, floats in (("narrow", FLOATS), ("wide", 16 * FLOATS)):
        folder = tmp_path / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(bare_graphs.doubling_wide(floats))
        (tmp_path / name / "config.toml").write_text("max_batch_size = 16\nmax_instances = 1\n")
    limits = ("--max-message-bytes", str(2 * MB), "--memory-budget-bytes", str(16 * MB))
    explicit = ("--control-mode", "explicit", "--admin-port", "0", "--load-models", "narrow")
    with start_server(tmp_path, *limits, *explicit) as server, grpc.insecure_channel(server.admin) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        # The decoder leaves a half.
        narrow, kept, left = 16 * row, "resonnx_memory_batches_bytes", "resonnx_memory_requests_max_bytes"
        assert (server.metric(kept), server.metric(left)) == (narrow, 8 * MB - narrow)
        assert "memory_budget_bytes keeps less" not in server.log.read_text()
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="wide"), timeout=60)
        assert (server.metric(kept), server.metric(left)) == (2 * MB, 6 * MB)
        (warning,) = [line for line in server.log.read_text().splitlines() if "memory_budget_bytes keeps less" in line]
        assert "wide" in warning
        assert str(16 * narrow) in warning
        assert str(17 * narrow - 2 * MB) in warning
        request = pb.ModelInferRequest(model_name="wide")
        request.inputs.add(name="x", datatype="FP32", shape=[1, 16 * FLOATS])
        request.raw_input_contents.append(np.ones(16 * FLOATS, np.float32).tobytes())
        (answer,) = stub.ModelInfer(request, timeout=20).raw_output_contents
        assert (np.frombuffer(answer, np.float32) == 2).all()
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="wide"), timeout=60)
        assert (server.metric(kept), server.metric(left)) == (narrow, 8 * MB - narrow)
