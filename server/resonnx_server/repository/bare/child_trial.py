"""Tries a file that no manifest vouches for in a child process: a crash or a hang ends only the child."""

import signal
import subprocess
import sys
import time
from typing import Final

from resonnx_server.errors import ModelRefused
from resonnx_server.repository.bare import child
from resonnx_server.runtime.cancellation import Cancellation
from resonnx_server.runtime.machine.memory import usable_memory

# Memory of the child: so much, and a multiple of the file's size, as the graph, its weights and their packed copies.
_LEAST_MEMORY: Final = 4 << 30
_MEMORY_FACTOR: Final = 8
# Time of the child: so much, and a second for so many bytes of the file.
_LEAST_S: Final = 60
_BYTES_A_SECOND: Final = 20 << 20


def try_in_child(content: bytes) -> None:
    """Open and run a file once in a process of its own, with the given bytes.

    Args:
        content: The ONNX file without external data.

    Raises:
        ModelRefused: That crashed, took too much memory or time, or could not be tried; or the load was cancelled.
    """
    memory = min(_LEAST_MEMORY + _MEMORY_FACTOR * len(content), usable_memory())
    timeout_s = _LEAST_S + len(content) // _BYTES_A_SECOND
    # -P: modules of the working directory are not loaded.
    command = [sys.executable, "-P", child.__file__, str(memory), str(timeout_s)]
    began_s = time.monotonic()
    try:
        # A session of its own: a Ctrl-C in the terminal is for the server.
        process = subprocess.Popen(  # noqa: S603  our own script, and numbers
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise ModelRefused(f"the file cannot be tried in a child process: {error.strerror}") from None
    with process:
        try:
            Cancellation.on_cancel(process.kill)
            process.communicate(content, timeout_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.kill()
    Cancellation.check()
    if (status := process.returncode) == 0:
        return
    if status == child.LACKS_MEMORY:
        raise ModelRefused(f"to open it and to run it once takes more than {memory >> 20} MiB of memory")
    if status == -signal.SIGXCPU or time.monotonic() - began_s >= timeout_s:
        raise ModelRefused(f"to open it and to run it once takes longer than {timeout_s} s")
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
    limit = f"{memory >> 20} MiB"
    raise ModelRefused(
        f"ONNX Runtime crashes when it opens or runs the file ({how}), or needs more than {limit} of memory"
    )
