"""How descriptors are divided, by the limit of the process."""

import subprocess
import sys

import pytest
from resonnx_server.runtime.machine.descriptors import Connections, TooFewDescriptors, divide_descriptors


@pytest.mark.parametrize(
    ("limit", "grpc", "http"),
    [(64, 28, 8), (256, 148, 32), (1024, 820, 128), (20_000, 8192, 1024), (1 << 20, 8192, 1024)],
)
def test_connections_get_what_files_leave(limit: int, grpc: int, http: int) -> None:
    assert divide_descriptors(limit, 12) == Connections(grpc, http)


def test_what_is_wanted_must_fit() -> None:
    assert divide_descriptors(1024, 12, 820) == Connections(820, 128)
    assert divide_descriptors(1024, 12, http=64) == Connections(884, 64)
    assert divide_descriptors(1 << 20, 12, 50_000).grpc == 50_000
    with pytest.raises(TooFewDescriptors, match=r"821 gRPC connections .*limit of open files, 1024"):
        divide_descriptors(1024, 12, 821)
    with pytest.raises(TooFewDescriptors, match="a single gRPC connection"):
        divide_descriptors(24, 16)


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    code = "from resonnx_server.runtime.machine.descriptors import allowed_connections as a; print(a().grpc)"
    limited = f"ulimit -Sn 256 && ulimit -Hn 1024 && '{sys.executable}' -c '{code}'"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, timeout=60)
    assert int(done.stdout) > 700, done.stderr
