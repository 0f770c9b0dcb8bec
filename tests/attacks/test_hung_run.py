"""A request, a model or a device whose run does not end: its callers fail, and the model serves on."""

import time
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from ..server import bare_graphs

TIMEOUT_S = 0.4


def _kernel() -> bytes:
    """Multiplies matrices as large as it is told, in one kernel, which nothing can end."""
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.001])
    nodes = [
        helper.make_node("Concat", ["times", "times"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["m"], value=value),
        helper.make_node("MatMul", ["m", "m"], ["product"]),
        helper.make_node("ReduceMax", ["product"], ["y"], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("times", TensorProto.INT64, [1])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])]
    graph = helper.make_graph(nodes, "kernel", inputs, outputs)
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()
    return content


@pytest.mark.parametrize(
    ("graph", "huge", "abandons"), [(bare_graphs.counting, 10**15, 0), (_kernel, 6_000, 1)], ids=["loop", "kernel"]
)
def test_the_model_serves_on(start_server, tmp_path: Path, graph, huge: int, abandons: int) -> None:
    (tmp_path / "models/endless/1").mkdir(parents=True)
    (tmp_path / "models/endless/1/model.onnx").write_bytes(graph())
    config = tmp_path / "server.toml"
    config.write_text(f"[models.endless]\nrun_timeout_s = {TIMEOUT_S}\n")
    with (
        start_server(tmp_path / "models", "--config", str(config)) as server,
        triton.InferenceServerClient(server.grpc) as client,
    ):

        def run(times: int) -> float:
            tensor = triton.InferInput("times", [1], "INT64")
            tensor.set_data_from_numpy(np.array([times]))
            return float(client.infer("endless", [tensor], client_timeout=20).as_numpy("y").item())

        usual = run(7)
        began = time.monotonic()
        with pytest.raises(InferenceServerException, match="took far longer than expected") as refused:
            run(huge)
        assert refused.value.status() == "StatusCode.INTERNAL"
        assert time.monotonic() - began < TIMEOUT_S + 10, "the machine may be slow; a run takes weeks, or a minute"
        assert run(7) == usual
        assert server.get("/livez")[0] == server.get("/readyz")[0] == 200
        assert server.metric("resonnx_hung_runs_total", model="endless") == 1
        assert server.metric("resonnx_request_errors_total", reason="INFERENCE_HUNG") == 1
        assert server.metric("resonnx_replaced_sessions_total", model="endless") == abandons
        assert server.stop() == 0
