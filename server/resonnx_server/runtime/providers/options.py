"""Options of sessions and of execution providers: precision, threads, and TensorRT's engine cache."""

import hashlib
import json
import logging
from pathlib import Path

import onnxruntime as ort
from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.runtime.c_api import ERRORS_ONLY
from resonnx_server.runtime.machine.host import gpu_models

_log = logging.getLogger(__name__)


def openvino_options(precision: pb.Precision, threads: int) -> dict[str, str]:
    """Return OpenVINO's options for a precision and a number of threads of one run."""
    cpu = {"INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1"}
    # Without a hint OpenVINO computes in bf16 where the chip has it, even for fp16 weights, which are 8 times finer.
    hints = {pb.PRECISION_FP32: "f32", pb.PRECISION_FP16: "f32", pb.PRECISION_BF16: "bf16"}
    if precision in hints:
        cpu["INFERENCE_PRECISION_HINT"] = hints[precision]
    return {"load_config": json.dumps({"CPU": cpu})}


def tensorrt_options(precision: pb.Precision, engines: Path | None) -> dict[str, str]:
    """Return TensorRT's options for a precision and an engine cache folder, if there is one."""
    # ONNX Runtime accepts only "True" and "False" for TensorRT's booleans.
    enabled = {"trt_fp16_enable": pb.PRECISION_FP16, "trt_int8_enable": pb.PRECISION_INT8}
    options = {option: str(precision == enabling) for option, enabling in enabled.items()}
    if engines is not None:
        for kind in ("engine", "timing"):
            options |= {f"trt_{kind}_cache_enable": "True", f"trt_{kind}_cache_path": str(engines)}
    return options


def engine_folder(cache: Path | None, model: bytes) -> Path | None:
    """Return the cache folder of one graph's engines: TensorRT itself does not tell graphs or GPUs apart.

    TensorRT refuses engines of another version of itself; delete the folder then.
    """
    if cache is None:
        return None
    how = f"{' '.join(gpu_models())} onnxruntime {ort.__version__}"
    folder = cache / f"tensorrt-{hashlib.sha256(model + how.encode()).hexdigest()[:32]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("TensorRT's engines cannot be cached", extra={"error": error.strerror})
        return None
    return folder


def cuda_options(precision: pb.Precision) -> dict[str, str]:
    """Return CUDA's options for a precision."""
    return {
        "use_tf32": "1" if precision == pb.PRECISION_TF32 else "0",
        # The default, EXHAUSTIVE, searches for seconds at each new shape.
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }


def session_options(threads: int, *, spinning: bool = False, optimise: bool = True) -> ort.SessionOptions:
    """Return the options of a session; see Session."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    # Threads that spin between runs would take the processor from image decoding and the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options
