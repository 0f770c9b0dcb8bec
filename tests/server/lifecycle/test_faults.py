"""What the machine does to a server: too little memory, descriptors or disk, a stopped process, a clock that jumps.

Each is a clear error or has no effect, and none is a crash.
"""

import mmap
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from .. import bare_graphs


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model that serves."""
    (tmp_path / "models/good/1").mkdir(parents=True)
    (tmp_path / "models/good/1/model.onnx").write_bytes(bare_graphs.doubling())
    return tmp_path / "models"


@contextmanager
def _limited(limit: str, repository: Path, *flags: str) -> "Iterator[subprocess.Popen[str]]":
    """A server under a limit of the shell's `ulimit`."""
    command = [sys.executable, "-m", "resonnx_server", "--repository", str(repository), "--port", "0"]
    command += ["--http-port", "0", *flags]
    shell = ["bash", "-c", f'ulimit {limit} && exec "$@"', "bash", *command]
    with subprocess.Popen(shell, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _ready(process: "subprocess.Popen[str]") -> str:
    """Wait until it is ready; return its gRPC address."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("resonnx-server ready grpc="), line
    return line.split()[2].removeprefix("grpc=")


def _doubled(address: str) -> list[float]:
    with triton.InferenceServerClient(address) as client:
        tensor = triton.InferInput("x", [1, 3], "FP32")
        tensor.set_data_from_numpy(np.array([[1, 2, 3]], np.float32))
        answer: list[float] = client.infer("good", [tensor], client_timeout=20).as_numpy("y")[0].tolist()
        return answer


@pytest.mark.parametrize("mebibytes", [300, pytest.param(600, marks=pytest.mark.slow), 900])
def test_too_little_address_space_is_said_in_one_line(mebibytes: int, repository: Path) -> None:
    """Libraries would crash there, or wait for ever."""
    with _limited(f"-v {mebibytes << 10}", repository) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert err.startswith(f"resonnx-server: the address space is limited to {mebibytes} MiB (ulimit -v)")
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_with_little_address_space_it_serves(repository: Path) -> None:
    with _limited(f"-v {(1024 + 128 * (os.cpu_count() or 1)) << 10}", repository) as process:
        assert _doubled(_ready(process)) == [2, 4, 6]
        process.terminate()
        assert process.wait(60) == 0


def test_a_full_disk_costs_the_kept_latencies_only(repository: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with _limited("-f 0", repository, "--cache-dir", str(cache)) as process:
        assert _doubled(_ready(process)) == [2, 4, 6]
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "a measurement could not be cached" in err
    assert "Traceback" not in err
    assert list(cache.iterdir()) == []


@pytest.mark.slow
def test_few_descriptors_are_survived(repository: Path) -> None:
    """Connections beyond them are not served; afterwards everything is as before."""
    with _limited("-n 64", repository) as process:
        address = _ready(process)
        assert _doubled(address) == [2, 4, 6]
        host, _, port = address.rpartition(":")
        with ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(socket.create_connection((host, int(port)), 10))
            time.sleep(1)
            assert process.poll() is None
        for _ in range(20):
            try:
                assert _doubled(address) == [2, 4, 6]
                break
            except triton.InferenceServerException:
                time.sleep(1)
        else:
            pytest.fail("it does not recover")
        process.terminate()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Too many open files" not in err, "the limits of connections leave some"


@pytest.mark.slow
def test_a_stopped_process_gives_no_run_up(start_server, tmp_path: Path) -> None:
    """SIGSTOP for longer than a run may take, in the middle of one."""
    (tmp_path / "models/endless/1").mkdir(parents=True)
    (tmp_path / "models/endless/1/model.onnx").write_bytes(bare_graphs.counting())
    config = tmp_path / "server.toml"
    config.write_text("[models.endless]\nrun_timeout_s = 4\n")
    with (
        start_server(tmp_path / "models", "--config", str(config)) as server,
        triton.InferenceServerClient(server.grpc) as client,
    ):
        answers: list[float] = []

        def run(times: int) -> None:
            tensor = triton.InferInput("times", [1], "INT64")
            tensor.set_data_from_numpy(np.array([times]))
            answers.append(client.infer("endless", [tensor], client_timeout=60).as_numpy("y").item())

        run(1)
        began = time.monotonic()
        run(100_000)
        turns = int(1.5 / (time.monotonic() - began) * 100_000)
        running = threading.Thread(target=run, args=(turns,))
        running.start()
        time.sleep(0.4)
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(5)
        server.process.send_signal(signal.SIGCONT)
        running.join(60)
        # float32 counts no further.
        assert answers == [1, 100_000, min(turns, 1 << 24)]
        assert server.metric("resonnx_hung_runs_total") == 0
        assert server.stop() == 0


_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
static volatile int64_t *offset;
static int64_t seconds(void) {
    if (!offset) {
        void *p = mmap(0, 8, PROT_READ, MAP_SHARED, open(getenv("CLOCK_OFFSET"), O_RDONLY), 0);
        offset = p;
    }
    return *offset;
}
int clock_gettime(clockid_t id, struct timespec *t) {
    static int (*next)(clockid_t, struct timespec *);
    if (!next) next = dlsym(RTLD_NEXT, "clock_gettime");
    int status = next(id, t);
    if (id == CLOCK_REALTIME) t->tv_sec += seconds();
    return status;
}
time_t time(time_t *out) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (out) *out = t.tv_sec;
    return t.tv_sec;
}
int gettimeofday(struct timeval *v, void *zone) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    v->tv_sec = t.tv_sec;
    v->tv_usec = t.tv_nsec / 1000;
    return 0;
}
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_clock_that_jumps_by_an_hour_changes_nothing(start_server, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "clock.c").write_text(_CLOCK)
    library, offset = tmp_path / "clock.so", tmp_path / "offset"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "clock.c", "-ldl"], check=True)
    offset.write_bytes(bytes(8))
    environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(offset)}
    with start_server(repository, environment=environment) as server, offset.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), 8)
        with triton.InferenceServerClient(server.grpc) as client:
            for hours in (0, 1, -1, 0):
                shared[:] = struct.pack("q", hours * 3600)
                for _ in range(20):
                    tensor = triton.InferInput("x", [1, 3], "FP32")
                    tensor.set_data_from_numpy(np.array([[1, 2, 3]], np.float32))
                    answer = client.infer("good", [tensor], client_timeout=10)
                    assert answer.as_numpy("y")[0].tolist() == [2, 4, 6]
                time.sleep(0.5)
                assert server.get("/readyz")[0] == 200
        assert server.metric("resonnx_hung_runs_total") == 0
        assert server.stop() == 0
