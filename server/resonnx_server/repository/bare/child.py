"""Opens the ONNX file on stdin and runs it once, under limits. A script of its own, which loads nothing of the server.

Arguments: bytes of address space, seconds of processor time. Exit status: 0 if nothing happens that would harm a server
(what ONNX Runtime refuses, it refuses the server as well); LACKS_MEMORY; or what ends a process that crashes.
"""

import ctypes
import math
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

LACKS_MEMORY: Final = 3
# Inputs of a run in bytes, all together; larger ones are not made.
_MOST_BYTES: Final = 1 << 28
_PR_SET_PDEATHSIG: Final = 1
_TYPES: Final = {"float": "f4", "double": "f8", "float16": "f2", "bool": "?", "string": "O"} | {
    f"{sign}int{bits}": f"{sign[:1] or 'i'}{bits // 8}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


def _limit(memory: int, processor_s: int) -> None:
    """Limit this process, which ends with its parent and is the first to end when the machine lacks memory."""
    for kind, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, processor_s),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        # macOS does not limit address space.
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, (most, most))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")


def _open_and_run(content: bytes) -> None:
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    del content
    feeds: dict[str, Any] = {}
    for node in session.get_inputs():
        shape = [axis if isinstance(axis, int) and axis >= 0 else 1 for axis in node.shape]
        dtype = np.dtype(_TYPES[node.type.removeprefix("tensor(").removesuffix(")")])
        if math.prod(shape) * dtype.itemsize * len(session.get_inputs()) > _MOST_BYTES:
            return
        feeds[node.name] = np.full(shape, "") if dtype.hasobject else np.zeros(shape, dtype)
    session.run(None, feeds)


def main(memory: int, processor_s: int) -> int:
    """Return the exit status."""
    _limit(memory, processor_s)
    try:
        _open_and_run(sys.stdin.buffer.read())
    except MemoryError:
        return LACKS_MEMORY
    except Exception as error:  # ONNX Runtime's errors share no base class
        return LACKS_MEMORY if "bad_alloc" in str(error) or "allocate memory" in str(error) else 0
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
