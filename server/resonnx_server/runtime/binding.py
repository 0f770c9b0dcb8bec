"""Runs with IO binding: outputs stay on the session's device, so that the next run reads them without a copy.

The device of an NVIDIA GPU is "cuda"; on the CPU provider, where the tests run, it is "cpu". `deploy/check-gpu` runs
this on a GPU.

`IOBinding.synchronize_inputs` would wait for the whole device, other lanes' batches included, with the GIL held. It is
not needed: OrtValue.ortvalue_from_numpy returns after its cudaMemcpy, and a run synchronises its CUDA streams at its
end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from resonnx_server.errors import InferenceHung
from resonnx_server.runtime.interruption import runs_of_this_thread
from resonnx_server.runtime.session import Array, Session


@dataclass(frozen=True, slots=True, eq=False)
class DeviceTensor:
    """An immutable tensor [rows, ...] in the memory of a session's device.

    Attributes:
        value: ONNX Runtime's OrtValue.
        rows: Size of the first axis.
    """

    value: Any
    rows: int


def to_device(array: Array, device: str) -> DeviceTensor:
    """Copy an array [rows, ...] to a device. On "cpu" it shares the array's memory, which must not change then.

    Raises:
        RuntimeError: There is no such device, or its memory is full.
    """
    value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)
    return DeviceTensor(value, len(array))


def run_bound(
    session: Session,
    host: Mapping[str, Array],
    device: Mapping[str, DeviceTensor],
    fetched: Sequence[str],
    kept: Sequence[str],
) -> tuple[dict[str, Array], dict[str, DeviceTensor]]:
    """Run a graph once. Thread-safe.

    Args:
        session: The graph, on any provider.
        host: Inputs in host memory.
        device: Inputs on the session's device.
        fetched: Outputs to copy to host memory.
        kept: Outputs to leave on the device, in newly allocated memory.

    Returns:
        The fetched and the kept outputs, by name.

    Raises:
        InferenceHung: The run was ended because it took far too long.
        Exception: ONNX Runtime's exceptions, which share no base class.
    """
    binding = session.ort_session.io_binding()
    for name, array in host.items():
        binding.bind_ortvalue_input(name, to_device(array, session.device).value)
    for name, tensor in device.items():
        binding.bind_ortvalue_input(name, tensor.value)
    for name in fetched:
        binding.bind_output(name, "cpu", 0)
    for name in kept:
        binding.bind_output(name, session.device, 0)
    runs = runs_of_this_thread()
    try:
        session.ort_session.run_with_iobinding(binding, runs.options if runs else session.run_options)
    except Exception:
        if runs and runs.is_over:
            raise InferenceHung from None
        raise
    values = binding.get_outputs()
    arrays = [value.numpy() for value in values[: len(fetched)]]
    tensors = [DeviceTensor(value, value.shape()[0]) for value in values[len(fetched) :]]
    return dict(zip(fetched, arrays, strict=True)), dict(zip(kept, tensors, strict=True))
