"""Runs whose tensors may stay where they are computed: IO binding, so that what the next run reads is not copied.

On an NVIDIA GPU the device is "cuda"; the CPU provider's is "cpu", which is how the tests run all of this. Nobody has
run it on a GPU yet.

What is written on one CUDA stream and read on another must be waited for, and `IOBinding.synchronize_inputs` waits for
the whole device, other lanes' batches too, with the GIL held. Neither it nor its counterpart is needed here: host
arrays go up by OrtValue.ortvalue_from_numpy, whose cudaMemcpy has ended when it returns, and a run synchronises its
streams before it does (unless a run option forbids it, which we do not set).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from resonnx_server.runtime.session import Array, Session


@dataclass(frozen=True, slots=True, eq=False)
class DeviceTensor:
    """A tensor [rows, ...] in the memory of a session's device; whole, and never written again.

    Attributes:
        value: ONNX Runtime's OrtValue.
        rows: Its first axis.
    """

    value: Any
    rows: int

    def to_host(self) -> Array:
        """Return a copy in host memory."""
        array: Array = self.value.numpy()
        return array


def to_device(array: Array, device: str) -> DeviceTensor:
    """Bring an array [rows, ...] to a device; on "cpu" it shares the array's memory, which must then stay as it is.

    Raises:
        RuntimeError: No such device, or not enough of its memory.
    """
    value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)
    return DeviceTensor(value, len(array))


def run_bound(
    session: Session,
    host: Mapping[str, Array],
    resident: Mapping[str, DeviceTensor],
    fetched: Sequence[str],
    kept: Sequence[str],
) -> tuple[dict[str, Array], dict[str, DeviceTensor]]:
    """Run a graph once; from any thread, like Session.run.

    Args:
        session: The graph, on any provider.
        host: Inputs in host memory.
        resident: Inputs on the session's device.
        fetched: Outputs to copy to host memory.
        kept: Outputs to leave on the device, where they take memory of their own.

    Returns:
        The fetched and the kept outputs, by name.

    Raises:
        Exception: ONNX Runtime's own, which share no base class; nothing is kept then.
    """
    binding = session.ort_session.io_binding()
    for name, array in host.items():
        binding.bind_ortvalue_input(name, to_device(array, session.device).value)
    for name, tensor in resident.items():
        binding.bind_ortvalue_input(name, tensor.value)
    for name in fetched:
        binding.bind_output(name, "cpu", 0)
    for name in kept:
        binding.bind_output(name, session.device, 0)
    session.ort_session.run_with_iobinding(binding, session.run_options)
    values = binding.get_outputs()
    arrays = [value.numpy() for value in values[: len(fetched)]]
    tensors = [DeviceTensor(value, value.shape()[0]) for value in values[len(fetched) :]]
    return dict(zip(fetched, arrays, strict=True)), dict(zip(kept, tensors, strict=True))
