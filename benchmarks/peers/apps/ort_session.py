"""Opens the session that every peer runs: provider, precision and threads come from the environment.

Copied beside each peer's model, and imports nothing of resonnx: it runs in the peer's own environment.
"""

import importlib
import json
import os
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

_OPENVINO = "OpenVINOExecutionProvider"


def open_session() -> Any:
    """Open PEER_MODEL as resonnx-server opens it: PEER_PROVIDER, PEER_PRECISION, PEER_THREADS a run.

    With 0 threads it is opened as tutorials do, with every default of ONNX Runtime.
    """
    threads, provider = int(os.environ["PEER_THREADS"]), os.environ["PEER_PROVIDER"]
    if not threads:
        return ort.InferenceSession(os.environ["PEER_MODEL"], providers=[provider])
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider != _OPENVINO:
        return ort.InferenceSession(os.environ["PEER_MODEL"], options, providers=[provider])
    plugin = importlib.import_module("onnxruntime_ep_openvino")
    ort.register_execution_provider_library(_OPENVINO, plugin.get_library_path())
    cpus = [device for device in ort.get_ep_devices()
            if device.ep_name == _OPENVINO and device.device.type == ort.OrtHardwareDeviceType.CPU]  # fmt: skip
    cpu = {"INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1"}
    hint = {"fp32": "f32", "bf16": "bf16"}.get(os.environ["PEER_PRECISION"])
    cpu |= {"INFERENCE_PRECISION_HINT": hint} if hint else {}
    options.add_provider_for_devices(cpus, {"load_config": json.dumps({"CPU": cpu})})
    return ort.InferenceSession(os.environ["PEER_MODEL"], options)
